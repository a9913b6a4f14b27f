; Variants of the step `fetch`: get the bytes of a claimed page.
; in: r15 = TSC at the claim    out: eax = RETURN_*, r15 = TSC when the bytes are there

; fetch_now: the bytes are at hand.
fetch_now:
    xor eax, eax
    ret

; fetch_sleep: the thread itself waits for the simulated network.
; Sleeps to an absolute time, so that a signal in between neither shortens nor stretches it.
fetch_sleep:
    mov edi, CLOCK_MONOTONIC
    call read_clock
    test eax, eax
    jnz .leave
    mov rax, rdx
    add rax, [rbx + resolver.fetch_delay_ns]
    xor edx, edx
    mov ecx, 1000000000
    div rcx
    mov [rbx + resolver.sec], rax
    mov [rbx + resolver.nsec], rdx
.again:
    mov eax, RETURN_STOPPED
    cmp dword ptr [rbx + resolver.stop], 0
    jne .leave
    mov edi, CLOCK_MONOTONIC
    mov esi, TIMER_ABSTIME
    lea rdx, [rbx + resolver.sec]
    xor r10d, r10d
    mov eax, SYS_CLOCK_NANOSLEEP
    SYSCALL
    test eax, eax
    jz .slept
    cmp eax, -EINTR
    jne .failed
    inc qword ptr [rbx + resolver.interrupts]
    jmp .again
.slept:
    call read_cycles
    mov rdx, rax
    sub rdx, r15
    add [rbx + resolver.fetch_cycles], rdx
    mov r15, rax
    xor eax, eax
.leave:
    ret
.failed:
    mov ecx, CALL_CLOCK_NANOSLEEP
    jmp failed
