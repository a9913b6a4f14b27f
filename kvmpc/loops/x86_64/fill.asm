; fill: write the tags of a part's touched pages, and their body where they have one, ahead of a trial
; (none,host=populated); the write is also what makes the kernel allocate them.
;
; in:  rbx = fill record    out: eax = RETURN_OK, or RETURN_STOPPED
fill:
    mov r8, [rbx + fill.index]
.next:
    cmp r8, [rbx + fill.end]
    jae .done
    cmp qword ptr [rbx + fill.stop], 0
    jne .stopped
    page_offset rsi, r8, [rbx + fill.run_shift], [rbx + fill.run_stride]
    mov rax, [rbx + fill.gpa]
    add rax, rsi
    add rsi, [rbx + fill.hva]
    tag rax, [rbx + fill.tag_multiplier], [rbx + fill.tag_seed]
    mov [rsi], rax
    last_word rax
    mov [rsi + LAST_WORD], rax
    mov rax, [rbx + fill.body]
    xor ecx, ecx
    sub rcx, [rbx + fill.body_words]
    jz .filled
.body:
    mov [rsi + rcx*8 + LAST_WORD], rax
    inc rcx
    jnz .body
.filled:
    inc r8
    mov [rbx + fill.index], r8
    jmp .next
.done:
    xor eax, eax
    ret
.stopped:
    mov eax, RETURN_STOPPED
    ret
