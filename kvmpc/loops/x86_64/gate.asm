; The gate: all vCPU threads sleep on one futex, so that no thread starts before all are there and no
; Python stands between the gate and the guest.

; open_gate: rbx = shared record -> eax = 0 or negative errno
; Stamps before it wakes: the woken may run before the waker does.
open_gate:
    mov edi, CLOCK_MONOTONIC
    lea rsi, [rbx + shared.sec]
    mov eax, SYS_CLOCK_GETTIME
    SYSCALL
    test eax, eax
    jnz .leave
    mov rdx, [rbx + shared.sec]
    imul rdx, rdx, 1000000000
    add rdx, [rbx + shared.nsec]
    mov [rbx + shared.gate_ns], rdx
    mov dword ptr [rbx + shared.gate], 1
    lea rdi, [rbx + shared.gate]
    mov esi, FUTEX_WAKE + FUTEX_PRIVATE_FLAG
    mov edx, 0x7fffffff
    mov eax, SYS_FUTEX
    SYSCALL
    cmp eax, 0
    jl .leave
    xor eax, eax
.leave:
    ret

; wait_gate: rbx = resolver record -> eax = RETURN_OK or RETURN_FAILED
; Counts itself as parked, once, before it first sleeps: whoever opens the gate waits for that, since
; a thread that has only told Python that it is ready may still be waiting for the GIL.
wait_gate:
    mov rdi, [rbx + resolver.shared]
    cmp dword ptr [rdi + shared.gate], 0
    jne .open
    lock inc dword ptr [rdi + shared.parked]
    lea rdi, [rdi + shared.gate]            ; the futex
.sleep:
    mov esi, FUTEX_WAIT + FUTEX_PRIVATE_FLAG
    xor edx, edx
    xor r10d, r10d                          ; no time-out: the stopper opens the gate
    mov eax, SYS_FUTEX
    SYSCALL
    test eax, eax
    jz .slept
    cmp eax, -EAGAIN                        ; opened meanwhile
    je .look
    cmp eax, -EINTR
    jne .failed
.slept:
    inc qword ptr [rbx + resolver.gate_sleeps]
.look:
    cmp dword ptr [rdi], 0
    je .sleep
.open:
    xor eax, eax
    ret
.failed:
    mov ecx, CALL_FUTEX
    jmp failed
