; The guest's program, one copy for all vCPUs: touch each page of this vCPU's part once, time the
; touch, check what the page holds. Ring 3, long mode, interrupts off, gva = gpa.
;
; in:  rdi = this vCPU's record (kvmpc/vm/record.py, GuestRecord)
; Ends at the `out` to DONE_PORT. rsi is always the page being touched: where KVM reports a missing
; page without its address, the host takes it from there (loops/records.py, ADDRESS_REGISTER).
;
; r8  touches left      r9  index of the touch      r10 index step      r11 indices
; r12 tag multiplier    r13 tag seed                r14 time before     r15 address of index 0

touch:
    mov r8, [rdi + guest.touches]
    mov r9, [rdi + guest.start]
    mov r10, [rdi + guest.step]
    mov r11, [rdi + guest.count]
    mov r12, [rdi + guest.tag_multiplier]
    mov r13, [rdi + guest.tag_seed]
    mov r15, [rdi + guest.part]
    ; Be at home before the gate: code, tables, stack and record have all been touched.
    push r8
    pop r8
    mov qword ptr [rdi + guest.touched], 0
    xor esi, esi
    out READY_PORT, al

    rdtsc
    shl rdx, 32
    or rax, rdx
    mov [rdi + guest.start_cycles], rax

.next:
    page_offset rsi, r9, [rdi + guest.run_shift], [rdi + guest.run_stride]
    add rsi, r15

.if TIMED
    lfence
    rdtsc
    shl rdx, 32
    or rax, rdx
    mov r14, rax
.endif
.if WRITE
    ; The first touch: a store, to a word that holds no tag. The page's own address is never 0, so a
    ; page that is filled again afterwards shows that it has lost it.
    mov [rsi + WRITTEN_WORD], rsi
.else
    mov rax, [rsi]
.endif
.if TIMED
    lfence
    rdtsc
    shl rdx, 32
    or rax, rdx
.if SPLIT
    mov rbp, rax
.endif
    sub rax, r14
    ; Longest touch, and a log-linear histogram: 16 buckets to a power of two, exact below 32.
    cmp rax, [rdi + guest.longest_cycles]
    jbe .shorter
    mov [rdi + guest.longest_cycles], rax
.shorter:
    xor ecx, ecx
    mov rdx, HISTOGRAM_LIMIT
    cmp rax, rdx
    cmova rax, rdx
    cmp rax, 32
    jb .bucket
    bsr rcx, rax
    sub ecx, 4
    shr rax, cl
    shl ecx, 4
.bucket:
    add rcx, rax
    inc dword ptr [rdi + rcx*4 + guest.histogram]
.if SPLIT
    ; Beside the host's own stamps (kvmpc/loops/stamps.py); the page is there by now.
    mov [rsi + STAMP_TOUCHED], r14
    mov [rsi + STAMP_BACK], rbp
.endif
.endif

.if CHECKED
    mov rax, rsi
    tag rax, r12, r13
    cmp rax, [rsi]
    jne .wrong
    last_word rax
    cmp rax, [rsi + LAST_WORD]
    jne .wrong
.checked:
.endif

    inc qword ptr [rdi + guest.touched]
    add r9, r10
    cmp r9, r11
    jb .within
    sub r9, r11
.within:
    dec r8
    jnz .next

    lfence
    rdtsc
    shl rdx, 32
    or rax, rdx
    mov [rdi + guest.end_cycles], rax
    out DONE_PORT, al
.if PASSES
    ; Further passes over what is present by then, once the host runs the vCPU again. r9 is back at
    ; the first index. Not timed; each page must still hold its tags and what pass 1 wrote: a page
    ; that was filled a second time has lost that.
.pass:
    mov r8, [rdi + guest.touches]
.again:
    page_offset rsi, r9, [rdi + guest.run_shift], [rdi + guest.run_stride]
    add rsi, r15
.if WRITE
    cmp rsi, [rsi + WRITTEN_WORD]
    jne .changed
.endif
.if CHECKED
    mov rax, rsi
    tag rax, r12, r13
    cmp rax, [rsi]
    jne .changed
    last_word rax
    cmp rax, [rsi + LAST_WORD]
    jne .changed
.endif
.same:
.if WRITE
    mov [rsi + WRITTEN_WORD], rsi
.else
    mov rax, [rsi]
.endif
    inc qword ptr [rdi + guest.again]
    add r9, r10
    cmp r9, r11
    jb .inside
    sub r9, r11
.inside:
    dec r8
    jnz .again
    dec qword ptr [rdi + guest.further]
    jnz .pass
    out DONE_PORT, al
.endif
    ud2                                     ; the host never runs a vCPU that is done

.if PASSES
.changed:
    inc qword ptr [rdi + guest.changed]
    cmp qword ptr [rdi + guest.changed], 1
    jne .same
    mov [rdi + guest.changed_gpa], rsi
    mov rax, [rsi + WRITTEN_WORD]
    mov [rdi + guest.changed_word], rax
    jmp .same
.endif

.if CHECKED
.wrong:
    ; Count it, and keep the first: its address and what was in its first and last word.
    inc qword ptr [rdi + guest.mismatches]
    cmp qword ptr [rdi + guest.mismatches], 1
    jne .checked
    mov [rdi + guest.wrong_gpa], rsi
    mov rax, [rsi]
    mov [rdi + guest.wrong_first], rax
    mov rax, [rsi + LAST_WORD]
    mov [rdi + guest.wrong_last], rax
    jmp .checked
.endif
