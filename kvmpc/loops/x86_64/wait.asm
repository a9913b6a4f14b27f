; Variants of the step `wait`: a read has found no message. Sleep until one comes or the next page is
; due, or come back at once to have both looked for again.
; out: eax = 1 a message woke it, 0 look again, or negative errno; r13d = CALL_* made

; wait_poll: a message wakes every reader that waits here; one that is alone needs nothing better.
wait_poll:
    call time_out
    inc qword ptr [rbx + reader.polls]
    mov r13d, CALL_PPOLL
    lea rdi, [rbx + reader.poll_fd]
    mov esi, 1
    xor r10d, r10d                          ; no signal mask
    mov eax, SYS_PPOLL
    SYSCALL
    ret

; wait_epoll: several readers share the userfaultfd. EPOLLEXCLUSIVE: one message wakes one of them.
wait_epoll:
    call time_out
    inc qword ptr [rbx + reader.polls]
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

; wait_read: the userfaultfd blocks, so that the read itself waits and never finds nothing.
wait_read:
    mov r13d, CALL_READ
    mov eax, -EAGAIN
    ret

; wait_spin: never sleep. Before the gate no page is missing: until the first message, which wakes
; every reader, it would only keep the vCPUs from coming there.
wait_spin:
    mov rax, [rbx + resolver.shared]
    cmp dword ptr [rax + shared.gate], 0
    je wait_poll
spin:
    ; Now and then it gives way: where CPUs are short a vCPU is worth more than the next look, and a
    ; thread of the same real-time priority, the one that stops trials too, would never run.
    inc qword ptr [rbx + reader.spins]
    mov rax, [rbx + reader.spins]
    test eax, LOOKS_PER_YIELD - 1
    jnz .pause
    mov eax, SYS_SCHED_YIELD
    SYSCALL                                 ; always succeeds
.pause:
    pause
    xor eax, eax
    ret

; wait_adaptive_*: spin for reader.spin_cycles after the last message or install, then sleep.
wait_adaptive_poll:
    call spins_on
    jb spin
    jmp wait_poll

wait_adaptive_epoll:
    call spins_on
    jb spin
    jmp wait_epoll

; spins_on: -> below (carry) = it is not yet time to sleep
spins_on:
    call read_cycles
    ; With more done than when this spin began, another one begins.
    mov rcx, [rbx + reader.received]
    add rcx, [rbx + resolver.fetches]
    cmp rcx, [rbx + reader.spin_work]
    je .same
    mov [rbx + reader.spin_work], rcx
    mov rdx, rax
    add rdx, [rbx + reader.spin_cycles]
    mov [rbx + reader.spin_until], rdx
.same:
    cmp rax, [rbx + reader.spin_until]
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
