; resolve: one missing page becomes a present one. Every loop and every pager comes through here; a
; pager chooses its variant of a step when the program is put together (`fetch`, `stage`, `publish`,
; `lost`, `wake`).
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

; stage_tags: build the page's bytes in this thread's staging page. kvmpc/work/tags.py has the rule.
stage_tags:
    mov rdi, [rbx + resolver.staging]
    mov rax, r12
    shl rax, PAGE_SHIFT
    add rax, [rbx + resolver.data_gpa]
    imul rax, [rbx + resolver.tag_multiplier]
    xor rax, [rbx + resolver.tag_seed]
    mov [rdi], rax
    rol rax, 32
    mov [rdi + LAST_WORD], rax
    ret

; install: UFFDIO_COPY from the staging page -> eax = RETURN_*, r14d = 1 if it was there already.
install:
    mov rax, r12
    shl rax, PAGE_SHIFT
    add rax, [rbx + resolver.data_hva]
    mov [rbx + resolver.copy_dst], rax
    mov rax, [rbx + resolver.staging]
    mov [rbx + resolver.copy_src], rax
    mov qword ptr [rbx + resolver.copy_len], PAGE_BYTES
    ; Share i of n begins at page i * pages / n, so page p is in share ((p + 1) * n - 1) / pages.
    xor eax, eax
    cmp qword ptr [rbx + resolver.uffd_count], 1
    je .share
    lea rax, [r12 + 1]
    mul qword ptr [rbx + resolver.uffd_count]
    sub rax, 1
    sbb rdx, 0
    div qword ptr [rbx + resolver.pages]
.share:
    mov rdi, [rbx + resolver.uffds]
    mov r13d, [rdi + rax*4]
    xor r14d, r14d
.again:
    mov qword ptr [rbx + resolver.copy_copy], 0
    mov edi, r13d
    mov esi, UFFDIO_COPY
    lea rdx, [rbx + resolver.copy_dst]
    mov eax, SYS_IOCTL
    SYSCALL
    test eax, eax
    jz .installed
    cmp eax, -EAGAIN
    je .repeat
    cmp eax, -EEXIST
    je .present
    mov ecx, CALL_UFFDIO_COPY
    jmp failed
.installed:
    inc qword ptr [rbx + resolver.installs]
    xor eax, eax
    ret
.present:
    inc qword ptr [rbx + resolver.eexist]
    mov r14d, 1
    xor eax, eax
    ret
.repeat:
    ; The mappings are changing: `copy` says how far it came, or holds a negative errno.
    inc qword ptr [rbx + resolver.eagain]
    mov eax, RETURN_STOPPED
    cmp dword ptr [rbx + resolver.stop], 0
    jne .leave
    mov rax, [rbx + resolver.copy_copy]
    test rax, rax
    js .again
    add [rbx + resolver.copy_dst], rax
    add [rbx + resolver.copy_src], rax
    sub [rbx + resolver.copy_len], rax
    jmp .again
.leave:
    ret

; publish_bit: clear the missing bit, after the install. A locked instruction is a full barrier on x86.
publish_bit:
    mov rax, [rbx + resolver.missing]
    lock btr qword ptr [rax], r12
    ret
