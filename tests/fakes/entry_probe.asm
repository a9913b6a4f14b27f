; Calls call_native as C would, around a function that destroys all it may, and notes what is left.

; probe_entry: rbx = array of u64 (EntryNotes), r12 = address of clobber_all
probe_entry:
    push rbx
    mov rdi, rbx
    mov rsi, 0x7070707070707070
    mov rdx, r12
    mov rbx, 0x1010101010101010
    mov rbp, 0x2020202020202020
    mov r12, 0x3030303030303030
    mov r13, 0x4040404040404040
    mov r14, 0x5050505050505050
    mov r15, 0x6060606060606060
    push rdi
    sub rsp, 8
    mov [rdi], rsp
    call call_native
    mov rdi, [rsp + 8]
    mov [rdi + 8], rsp
    mov [rdi + 16], rbx
    mov [rdi + 24], rbp
    mov [rdi + 32], r12
    mov [rdi + 40], r13
    mov [rdi + 48], r14
    mov [rdi + 56], r15
    mov [rdi + 64], rax
    add rsp, 8
    pop rdi
    pop rbx
    xor eax, eax
    ret

; clobber_all: rbx = the array, r12 = page
clobber_all:
    mov [rbx + 72], rsp
    mov [rbx + 80], rbx
    mov [rbx + 88], r12
    mov rbx, -1
    mov rbp, -1
    mov r12, -1
    mov r13, -1
    mov r14, -1
    mov r15, -1
    mov eax, 0x5eed
    ret

; probe_lost: rbx = resolver record, r12 = page -> eax as `lost`, which lies between the two stamps
probe_lost:
    call read_cycles
    mov [rbx + resolver.start_cycles], rax
    call lost
    push rax
    call read_cycles
    mov [rbx + resolver.end_cycles], rax
    pop rax
    ret

; probe_kernel: rbx = array of u64. Makes one system call and notes what it left of each register.
probe_kernel:
    push rbx
    mov eax, 1000
    mov edi, 1
    mov esi, 2
    mov edx, 3
    mov r10d, 4
    mov r8d, 5
    mov r9d, 6
    mov ecx, 7
    mov r11d, 8
    mov ebp, 9
    mov r12d, 10
    mov r13d, 11
    mov r14d, 12
    mov r15d, 13
    mov [rbx + 128], rsp
    SYSCALL
    mov [rbx], rax
    mov [rbx + 8], rdi
    mov [rbx + 16], rsi
    mov [rbx + 24], rdx
    mov [rbx + 32], r10
    mov [rbx + 40], r8
    mov [rbx + 48], r9
    mov [rbx + 56], rcx
    mov [rbx + 64], r11
    mov [rbx + 72], rbp
    mov [rbx + 80], r12
    mov [rbx + 88], r13
    mov [rbx + 96], r14
    mov [rbx + 104], r15
    mov [rbx + 136], rsp
    pop rbx
    xor eax, eax
    ret

; probe_crash: rbx = signal number -> eax = what hold_crash leaves in ebx. Calls it as a signal's handler
; is called: with anything in the other registers, and below the stack.
probe_crash:
    push rbx
    mov rdi, rbx
    mov rbx, 0x5a5a5a5a5a5a5a5a
    mov rsi, rbx
    mov rdx, rbx
    mov r10, rbx
    push rbx
    push rbx
    push rbx
    push rbx
    push rbx
    push rbx
    push rbx
    push rbx
    add rsp, 64
    call hold_crash
    mov rax, rbx
    pop rbx
    ret
