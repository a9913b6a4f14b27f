; The hot loop of a userfaultfd reader: read messages, take each page, install what is due, wait when
; there is neither. All messages of one read come before any install that is due, so that no request
; goes out late behind one.
; What `take` does with a page, whether pages come in later, and how `wait` waits are chosen by the pager
; (take.asm, wait.asm).

; reader_loop: rbx = reader record -> eax = RETURN_*
reader_loop:
    call usage_start
    test eax, eax
    jnz .leave
    call stamp_start
    test eax, eax
    jnz .leave
    call .again
    jmp stamp_end
.leave:
    ret

.again:
    mov eax, RETURN_STOPPED
    cmp dword ptr [rbx + resolver.stop], 0
    jne .leave

    ; Handle what the last read brought; a rare path may have left some of it.
    mov rbp, [rbx + reader.next]
    cmp rbp, [rbx + reader.end]
    jae .due
    lea rax, [rbp + UFFD_MSG_BYTES]
    mov [rbx + reader.next], rax
    movzx eax, byte ptr [rbp + uffd_msg.event]
    cmp eax, UFFD_EVENT_PAGEFAULT
    jne .odd
    inc qword ptr [rbx + reader.received]
    mov r12, [rbp + uffd_msg.address]
    sub r12, [rbx + resolver.data_hva]
    shr r12, UNIT_SHIFT
    mov [rbx + resolver.page], r12
    mov eax, RETURN_OUTSIDE
    cmp r12, [rbx + resolver.pages]
    jae .leave
    call take
    test eax, eax
    jz .again
    ret

.odd:
    mov [rbx + resolver.error], rax
    mov eax, RETURN_EVENT
    ret

.due:
    call install_due
    test eax, eax
    jnz .leave
    inc qword ptr [rbx + reader.reads]
    mov edi, [rbx + reader.uffd]
    mov rsi, [rbx + reader.messages]
    mov rdx, [rbx + reader.read_bytes]
    mov eax, SYS_READ
    SYSCALL
    cmp eax, 0
    jle .none
    mov qword ptr [rbx + reader.woken], 0
    mov rsi, [rbx + reader.messages]
    mov [rbx + reader.next], rsi
    mov ecx, eax
    add rsi, rcx
    mov [rbx + reader.end], rsi
    test eax, UFFD_MSG_BYTES - 1
    jz .again
    mov rcx, [rbx + reader.next]
    mov [rbx + reader.end], rcx
    jmp .odd

.none:
    cmp eax, -EAGAIN
    je .empty
    cmp eax, -EINTR
    je .interrupted
    test eax, eax
    jz .odd
    mov ecx, CALL_READ
    jmp failed
.interrupted:
    inc qword ptr [rbx + resolver.interrupts]
    jmp .again
.empty:
    inc qword ptr [rbx + reader.reads_empty]
    mov rax, [rbx + reader.woken]
    add [rbx + reader.wakeups_empty], rax
    mov qword ptr [rbx + reader.woken], 0
    call wait
    cmp eax, -EINTR
    je .interrupted
    cmp eax, 0
    je .again                               ; a page may be due
    jl .failed
    inc qword ptr [rbx + reader.wakeups]
    mov qword ptr [rbx + reader.woken], 1
    jmp .again
.failed:
    mov ecx, r13d
    jmp failed
