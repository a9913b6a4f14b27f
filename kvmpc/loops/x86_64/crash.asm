; hold_crash: a signal's handler: edi = signal number
; What a thread runs that crashes while another's crash is being told: Python's handler takes itself
; away first, so that the next one to crash would end the process before a word is out. It waits until
; all is said, and then lets the signal do what it does by default.
hold_crash:
    push rbx
    mov ebx, edi
    sub rsp, 32
    mov qword ptr [rsp], 1                  ; timespec: a second
    mov qword ptr [rsp + 8], 0
    mov edi, CLOCK_MONOTONIC
    xor esi, esi
    mov rdx, rsp
    xor r10d, r10d
    mov eax, SYS_CLOCK_NANOSLEEP
    SYSCALL
    mov qword ptr [rsp], 0                  ; the kernel's sigaction: SIG_DFL, no flags; rdx: the old one
    mov edi, ebx
    mov rsi, rsp
    mov r10d, 8                             ; bytes of a set of signals
    mov eax, SYS_RT_SIGACTION
    SYSCALL
    add rsp, 32
    pop rbx
    ret                                     ; to what crashed, which does so again
