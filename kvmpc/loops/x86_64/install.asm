; Variants of the step `install`: put the staged page in its place.
; out: eax = RETURN_*, r14d = 1 if it was there already, r13d = the share's userfaultfd

; install_copy: UFFDIO_COPY from the staging page.
install_copy:
    mov rax, r12
    shl rax, UNIT_SHIFT
    add rax, [rbx + resolver.data_hva]
    mov [rbx + resolver.copy_dst], rax
    mov rax, [rbx + resolver.staging]
    mov [rbx + resolver.copy_src], rax
    mov qword ptr [rbx + resolver.copy_len], UNIT_BYTES
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
