; Time stamps. The TSC is read for every page; a clock costs a system call here (the loops do not know
; the vDSO), so it is read once a trial, or where the thread sleeps anyway.

; read_clock: edi = clock id -> eax = RETURN_OK, rdx = ns; or RETURN_FAILED
; memory: resolver.sec, resolver.nsec
read_clock:
    lea rsi, [rbx + resolver.sec]
    mov eax, SYS_CLOCK_GETTIME
    SYSCALL
    test eax, eax
    jnz .failed
    mov rdx, [rbx + resolver.sec]
    imul rdx, rdx, 1000000000
    add rdx, [rbx + resolver.nsec]
    ret
.failed:
    mov ecx, CALL_CLOCK_GETTIME
    jmp failed

; failed: ecx = CALL_*, eax = negative errno -> eax = RETURN_FAILED
failed:
    mov [rbx + resolver.failed_call], ecx
    neg eax
    mov [rbx + resolver.error], rax         ; neg of a 32-bit register clears the upper half
    mov eax, RETURN_FAILED
    ret

; read_cycles: -> rax = TSC, after everything before it; changes rdx
read_cycles:
    lfence
    rdtsc
    shl rdx, 32
    or rax, rdx
    ret

; read_usage: rsi = struct rusage to fill for this thread -> eax = RETURN_OK or RETURN_FAILED
read_usage:
    mov edi, RUSAGE_THREAD
    mov eax, SYS_GETRUSAGE
    SYSCALL
    test eax, eax
    jnz .failed
    ret
.failed:
    mov ecx, CALL_GETRUSAGE
    jmp failed

; usage_start: -> eax = RETURN_OK or RETURN_FAILED. Before the gate, so that no time is spent on it
; behind it; what the sleep at the gate adds is counted (gate_sleeps). Only the first time, too.
usage_start:
    xor eax, eax
    cmp qword ptr [rbx + resolver.start_ns], 0
    jne .done
    lea rsi, [rbx + resolver.usage_start]
    call read_usage
.done:
    ret

; stamp_start: the loop begins. Stamps only the first time: a thread comes back after a rare path.
stamp_start:
    cmp qword ptr [rbx + resolver.start_ns], 0
    jne .done
    mov edi, CLOCK_THREAD_CPUTIME_ID
    call read_clock
    test eax, eax
    jnz .leave
    mov [rbx + resolver.cpu_start_ns], rdx
    mov edi, CLOCK_MONOTONIC
    call read_clock
    test eax, eax
    jnz .leave
    mov [rbx + resolver.start_ns], rdx
    call read_cycles
    mov [rbx + resolver.start_cycles], rax
.done:
    xor eax, eax
.leave:
    ret

; stamp_end: eax = return code -> the same, or RETURN_FAILED. The last return of a loop counts.
stamp_end:
    push rax
    inc qword ptr [rbx + resolver.returns]
    call read_cycles
    mov [rbx + resolver.end_cycles], rax
    mov edi, CLOCK_MONOTONIC
    call read_clock
    test eax, eax
    jnz .failed
    mov [rbx + resolver.end_ns], rdx
    mov edi, CLOCK_THREAD_CPUTIME_ID
    call read_clock
    test eax, eax
    jnz .failed
    mov [rbx + resolver.cpu_end_ns], rdx
    lea rsi, [rbx + resolver.usage_end]
    call read_usage
    test eax, eax
    jnz .failed
    pop rax
    ret
.failed:
    pop rdx
    ret
