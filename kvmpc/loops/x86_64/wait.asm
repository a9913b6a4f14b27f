; Variants of the step `wait`: sleep until a message comes or the next page is due.
; out: eax = 1 message, 0 a page is due, or negative errno; r13d = CALL_* made

; wait_poll: this reader is alone with its userfaultfd.
wait_poll:
    call time_out
    mov r13d, CALL_PPOLL
    lea rdi, [rbx + reader.poll_fd]
    mov esi, 1
    xor r10d, r10d                          ; no signal mask
    mov eax, SYS_PPOLL
    SYSCALL
    ret

; wait_epoll: several readers share it. EPOLLEXCLUSIVE: one message wakes one of them.
wait_epoll:
    call time_out
    mov r13d, CALL_EPOLL_PWAIT2
    mov edi, [rbx + reader.epoll]
    lea rsi, [rbx + reader.epoll_event]
    mov r10, rdx
    mov edx, 1
    xor r8d, r8d                            ; no signal mask
    xor r9d, r9d
    mov eax, SYS_EPOLL_PWAIT2
    SYSCALL
    ret

; time_out: -> rdx = timespec until the next page is due, 0 where none is on its way
time_out:
    xor edx, edx
    mov rax, [rbx + reader.timeout_ns]
    cmp rax, NONE
    je .forever
    mov ecx, 1000000000
    div rcx
    mov [rbx + resolver.sec], rax
    mov [rbx + resolver.nsec], rdx
    lea rdx, [rbx + resolver.sec]
.forever:
    ret
