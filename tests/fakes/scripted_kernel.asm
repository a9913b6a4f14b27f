; Stands in for the system-call instruction in the test builds: calls a function of the test's.
;
; in:   rax = number, rdi rsi rdx r10 r8 r9 = arguments
; out:  rax = what the function returned; rcx and r11 junk, all others as they were (like syscall(2)).
; Stricter than the real one: the flags do not survive.

scripted_kernel:
    push rbp
    mov rbp, rsp
    push rdi
    push rsi
    push rdx
    push r8
    push r9
    push r10
    and rsp, -16
    push r9
    push r9                                 ; the seventh argument; the eighth keeps the alignment
    mov r9, r8
    mov r8, r10
    mov rcx, rdx
    mov rdx, rsi
    mov rsi, rdi
    mov rdi, rax
    mov rax, CALLBACK
    call rax
    lea rsp, [rbp - 48]
    pop r10
    pop r9
    pop r8
    pop rdx
    pop rsi
    pop rdi
    pop rbp
    mov rcx, 0x5a5a5a5a5a5a5a5a
    mov r11, 0xa5a5a5a5a5a5a5a5
    ret
