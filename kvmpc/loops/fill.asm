; fill: write the tags of a part's touched pages ahead of a trial (none,host=populated); the write is
; also what makes the kernel allocate them. Page geometry as in guest/touch.asm.
;
; in:  rbx = fill record    out: eax = RETURN_OK, or RETURN_STOPPED
fill:
    mov r8, [rbx + fill.index]
.next:
    cmp r8, [rbx + fill.end]
    jae .done
    cmp qword ptr [rbx + fill.stop], 0
    jne .stopped
    mov rcx, [rbx + fill.run_shift]
    mov rax, r8
    shr rax, cl
    mov rdx, rax
    shl rdx, cl
    mov rsi, r8
    sub rsi, rdx                            ; page within its run
    imul rax, [rbx + fill.run_stride]
    add rsi, rax
    shl rsi, PAGE_SHIFT
    mov rax, [rbx + fill.gpa]
    add rax, rsi
    add rsi, [rbx + fill.hva]
    imul rax, [rbx + fill.tag_multiplier]
    xor rax, [rbx + fill.tag_seed]
    mov [rsi], rax
    rol rax, 32
    mov [rsi + LAST_WORD], rax
    inc r8
    mov [rbx + fill.index], r8
    jmp .next
.done:
    xor eax, eax
    ret
.stopped:
    mov eax, RETURN_STOPPED
    ret
