; speed: a fixed stretch of work that the kernel has no part in, by which hosts are compared: each step
; waits for the one before, for a multiplication and for a word of memory that no prefetcher foresees.
;
; in:  rbx = speed record    out: eax = RETURN_OK, speed.value = what was computed; the buffer changes
speed:
    mov rcx, [rbx + speed.steps]
    mov rsi, [rbx + speed.buffer]
    mov rdi, [rbx + speed.multiplier]
    mov rax, [rbx + speed.value]
.step:
    imul rax, rdi
    mov rdx, rax
    shr rdx, SPEED_SHIFT                    ; its highest bits are the best mixed: which word
    add rax, [rsi + rdx * 8]
    mov [rsi + rdx * 8], rax
    dec rcx
    jnz .step
    mov [rbx + speed.value], rax
    xor eax, eax
    ret
