; Variants of the step `wake`: let run whoever waits for the page -> eax = RETURN_*.

; wake_range: a UFFDIO_COPY that installed has woken the vCPUs; one that found the page there has not.
; in: r14d = 1 if the page was there already
wake_range:
    test r14d, r14d
    jz .done
    mov rax, [rbx + resolver.copy_dst]
    mov [rbx + resolver.range_start], rax
    mov rax, [rbx + resolver.copy_len]
    mov [rbx + resolver.range_len], rax
    inc qword ptr [rbx + resolver.wakes]
    mov edi, r13d                           ; the share's uffd, from `install`
    mov esi, UFFDIO_WAKE
    lea rdx, [rbx + resolver.range_start]
    mov eax, SYS_IOCTL
    SYSCALL
    test eax, eax
    jnz .failed
.done:
    xor eax, eax
    ret
.failed:
    mov ecx, CALL_UFFDIO_WAKE
    jmp failed

; wake_losers: nobody sleeps in a fault; threads that lost the claim sleep on the bitmap (`lost_wait`).
wake_losers:
    mov rax, [rbx + resolver.shared]
    cmp dword ptr [rax + shared.waiters], 0
    je .done
    mov rdi, r12
    shr rdi, 5
    mov rax, [rbx + resolver.missing]
    lea rdi, [rax + rdi*4]
    mov esi, FUTEX_WAKE + FUTEX_PRIVATE_FLAG
    mov edx, 0x7fffffff
    mov eax, SYS_FUTEX
    SYSCALL
    cmp eax, 0
    jl .failed
.done:
    xor eax, eax
    ret
.failed:
    mov ecx, CALL_FUTEX
    jmp failed
