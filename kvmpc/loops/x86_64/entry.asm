; call_native: the one way from C (a ctypes function pointer) into a native function.
;
; in:   rdi = record, rsi = page (for `resolve`; else unused), rdx = address of the function
; out:  eax = what the function returned
; Inside, by convention: rbx = record, r12 = page; a function may change every register but rsp,
; and rbx, which always stays the record. r12 stays the page across the steps of `resolve`.

call_native:
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    sub rsp, 8                              ; the ABI's 16-byte alignment
    mov rbx, rdi
    mov r12, rsi
    call rdx
    add rsp, 8
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    ret
