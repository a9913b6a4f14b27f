; Variants of the step `lost`: another thread has claimed the page -> eax = RETURN_*.

; lost_drop: a reader drops the message; the winner's install wakes every vCPU that waits there.
lost_drop:
    xor eax, eax
    ret

; lost_wait: a vCPU's own thread must not run the guest before the page is there. Spins about as long
; as an install takes (by the TSC: a `pause` is 10 to 140 cycles), then sleeps on the 32-bit word of
; the missing bitmap that holds the page's bit.
lost_wait:
    mov rdi, r12
    shr rdi, 5
    mov rax, [rbx + resolver.missing]
    lea rdi, [rax + rdi*4]                  ; the futex
    call read_cycles
    lea r14, [rax + SPIN_CYCLES]
.spin:
    mov edx, [rdi]
    bt edx, r12d                            ; the offset counts modulo 32
    jnc .present
    pause
    call read_cycles
    cmp rax, r14
    jb .spin
.sleep:
    mov eax, RETURN_STOPPED
    cmp dword ptr [rbx + resolver.stop], 0
    jne .leave
    ; Announce, then look again: `wake_losers` clears the bit first and looks for waiters then, so
    ; one of the two sees the other (both are locked instructions).
    mov r14, [rbx + resolver.shared]
    lock inc dword ptr [r14 + shared.waiters]
    mov edx, [rdi]
    bt edx, r12d
    jnc .unwait
    inc qword ptr [rbx + resolver.waits]
    mov esi, FUTEX_WAIT + FUTEX_PRIVATE_FLAG
    xor r10d, r10d
    mov eax, SYS_FUTEX
    SYSCALL
    lock dec dword ptr [r14 + shared.waiters]
    test eax, eax
    jz .look
    cmp eax, -EAGAIN                        ; the word changed: this page's bit or a neighbour's
    je .look
    cmp eax, -EINTR
    jne .failed
    inc qword ptr [rbx + resolver.interrupts]
.look:
    mov edx, [rdi]
    bt edx, r12d
    jnc .present
    inc qword ptr [rbx + resolver.waits_empty]
    jmp .sleep
.unwait:
    lock dec dword ptr [r14 + shared.waiters]
.present:
    xor eax, eax
.leave:
    ret
.failed:
    mov ecx, CALL_FUTEX
    jmp failed
