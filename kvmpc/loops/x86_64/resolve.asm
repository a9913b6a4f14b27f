; resolve: one missing page becomes a present one. Every loop and every pager comes through here; a
; pager chooses its variant of a step when the program is put together (`fetch`, `stage`,
; `install`, `publish`, `lost`, `wake`).
;
; in:   rbx = record, r12 = page
; out:  eax = RETURN_OK (the page is there, or another thread will bring it), or RETURN_*
; A step may change every register but rbx, rbp, rsp, r12 and r15.

resolve:
    mov [rbx + resolver.page], r12
    call claim
    jc .lost
    call read_cycles
    mov r15, rax
    call fetch
    test eax, eax
    jnz .leave
    inc qword ptr [rbx + resolver.fetches]
    jmp supply
.lost:
    inc qword ptr [rbx + resolver.lost_claims]
    jmp lost
.leave:
    ret

; supply: the second half, for a claimed page whose bytes have come in. in: r15 = TSC when they were
supply:
    mov [rbx + resolver.page], r12
    call stage
    call install
    test eax, eax
    jnz .leave
    call read_cycles
    sub rax, r15
    add [rbx + resolver.install_cycles], rax
    call publish
    jmp wake
.leave:
    ret

; claim: -> carry = somebody else has the page. Each page is fetched and installed once: a second
; install on a late exit would destroy what the guest has written since.
claim:
    mov rax, [rbx + resolver.claimed]
    lock bts qword ptr [rax], r12
    ret

; stage_tags: build the page's bytes in this thread's staging page.
stage_tags:
    mov rdi, [rbx + resolver.staging]
    mov rax, r12
    shl rax, UNIT_SHIFT
    add rax, [rbx + resolver.data_gpa]
    tag rax, [rbx + resolver.tag_multiplier], [rbx + resolver.tag_seed]
    mov [rdi], rax
    last_word rax
    mov [rdi + LAST_WORD], rax
    ret

; publish_bit: clear the missing bit, after the install. A locked instruction is a full barrier on x86.
publish_bit:
    mov rax, [rbx + resolver.missing]
    lock btr qword ptr [rax], r12
    ret
