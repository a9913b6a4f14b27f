; The hot loop of a vCPU's thread: run the guest, resolve the page it exits for, run it again.
; Anything that does not happen once a page goes back to Python (RETURN_EXIT and others).

; gated_vcpu_loop: rbx = vcpu record -> eax = RETURN_*. Waits for the gate, stamps, runs, stamps.
gated_vcpu_loop:
    call usage_start
    test eax, eax
    jnz .leave
    call wait_gate
    test eax, eax
    jnz .leave
    call stamp_start
    test eax, eax
    jnz .leave
    call vcpu_loop
    jmp stamp_end
.leave:
    ret

; vcpu_loop: rbx = vcpu record -> eax = RETURN_*
; rbp = struct kvm_run
vcpu_loop:
    mov rbp, [rbx + vcpu.run]
.again:
    mov eax, RETURN_STOPPED
    cmp dword ptr [rbx + resolver.stop], 0
    jne .leave
    ; KVM does not write exit_reason on a bare EFAULT: a stale one must never be believed.
    mov dword ptr [rbp + kvm_run.exit_reason], KVM_EXIT_UNKNOWN
    inc qword ptr [rbx + vcpu.kvm_runs]
    mov edi, [rbx + vcpu.fd]
    mov esi, KVM_RUN
    xor edx, edx
    mov eax, SYS_IOCTL
    SYSCALL
    cmp eax, -EFAULT
    je .fault
    test eax, eax
    jns .exit
    cmp eax, -EINTR
    je .interrupted
    mov ecx, CALL_KVM_RUN
    jmp failed

.interrupted:
    inc qword ptr [rbx + resolver.interrupts]
    jmp .again

.exit:
    mov qword ptr [rbx + resolver.error], 0
    mov eax, RETURN_EXIT
.leave:
    ret

.fault:
    mov eax, [rbp + kvm_run.exit_reason]
    cmp eax, KVM_EXIT_MEMORY_FAULT
    je .annotated
    cmp eax, KVM_EXIT_UNKNOWN
    jne .odd
    ; No annotation: the guest keeps the address it touches in a register (ADDRESS_REGISTER).
    inc qword ptr [rbx + vcpu.exits_registers]
    mov r12, [rbp + kvm_run.touched_gpa]
    jmp .locate
.annotated:
    inc qword ptr [rbx + vcpu.exits_annotated]
    mov r12, [rbp + kvm_run.memory_fault_gpa]
.locate:
    sub r12, [rbx + resolver.data_gpa]      ; below data memory wraps to far above it
    shr r12, UNIT_SHIFT
    mov [rbx + resolver.page], r12
    mov eax, RETURN_OUTSIDE
    cmp r12, [rbx + resolver.pages]
    jae .leave
    cmp r12, [rbx + vcpu.last_page]
    je .repeated
    mov [rbx + vcpu.last_page], r12
    mov qword ptr [rbx + vcpu.repeats], 0
.resolve:
    call resolve
    test eax, eax
    jz .again
    ret

.odd:
    ; An EFAULT with a reason that KVM never gives one for: Python reports both.
    mov qword ptr [rbx + resolver.error], EFAULT
    mov eax, RETURN_EXIT
    ret

.repeated:
    mov rax, [rbx + vcpu.repeats]
    inc rax
    mov [rbx + vcpu.repeats], rax
    cmp rax, [rbx + vcpu.repeats_most]
    jbe .bounded
    mov [rbx + vcpu.repeats_most], rax
.bounded:
    cmp rax, REPEAT_LIMIT
    jb .resolve
    mov eax, RETURN_REPEATED
    ret
