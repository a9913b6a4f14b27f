; What a part's touched pages hold once the trial is over, read back on the host, off the measured path.
; Every page must be there, and no userfaultfd hold it back: whoever calls has seen to both.
;
; in:  rbx = inspect record
; out: eax = RETURN_OK, or RETURN_WRONG with `index` at the first page that holds what it should not
inspect:
    mov r8, [rbx + inspect.index]
.next:
    cmp r8, [rbx + inspect.end]
    jae .done
    page_offset rsi, r8, [rbx + inspect.run_shift], [rbx + inspect.run_stride]
    mov r9, [rbx + inspect.gpa]
    add r9, rsi
    add rsi, [rbx + inspect.hva]
    mov rax, r9
    tag rax, [rbx + inspect.tag_multiplier], [rbx + inspect.tag_seed]
    cmp rax, [rsi]
    jne .wrong
    last_word rax
    cmp rax, [rsi + LAST_WORD]
    jne .wrong
    and r9, [rbx + inspect.written]         ; the page's own address, or 0 where no guest has written
    cmp r9, [rsi + WRITTEN_WORD]
    jne .wrong
    mov rax, [rbx + inspect.body]
    xor ecx, ecx
    sub rcx, [rbx + inspect.body_words]
    jz .right
.body:
    cmp rax, [rsi + rcx*8 + LAST_WORD]
    jne .wrong
    inc rcx
    jnz .body
.right:
    inc r8
    mov [rbx + inspect.index], r8
    jmp .next
.done:
    xor eax, eax
    ret
.wrong:
    mov eax, RETURN_WRONG
    ret
