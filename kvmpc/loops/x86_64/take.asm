; What a reader does with a page it was told of: variants of `take` and, with it, of `install_due`.
;   take:        r12 = page -> eax = RETURN_*
;   install_due: install what has come in -> eax = RETURN_*; with RETURN_OK sets reader.timeout_ns

; take_now: resolve it here and now, sleeping for a simulated fetch (fetch=blocking).
take_now:
    jmp resolve

due_none:
    mov qword ptr [rbx + reader.timeout_ns], NONE
    xor eax, eax
    ret

; take_later: claim it, put it into the ring with the time its bytes come in, go on reading
; (fetch=pipelined: as a sender on a network would answer, while further requests go out).
; Every fetch takes equally long, so the ring is in order of time. A vCPU waits for one page at a time
; and a page is claimed once, so a ring with room for every vCPU never fills.
take_later:
    call claim
    jc .lost
    mov rcx, [rbx + reader.queue_tail]
    sub rcx, [rbx + reader.queue_head]
    mov eax, RETURN_FULL
    cmp rcx, [rbx + reader.queue_mask]
    ja .leave
    mov rcx, [rbx + reader.queue_tail]
    inc qword ptr [rbx + reader.queue_tail]
    and rcx, [rbx + reader.queue_mask]
    imul rcx, rcx, PENDING_BYTES
    add rcx, [rbx + reader.queue]
    mov [rcx + pending.page], r12
    call read_cycles
    add rax, [rbx + resolver.fetch_delay_cycles]
    mov [rcx + pending.due_cycles], rax
    xor eax, eax
.leave:
    ret
.lost:
    inc qword ptr [rbx + resolver.lost_claims]
    jmp lost

; due_installs: install every page whose time has come, oldest first.
due_installs:
    mov rcx, [rbx + reader.queue_head]
    cmp rcx, [rbx + reader.queue_tail]
    je due_none
    and rcx, [rbx + reader.queue_mask]
    imul rcx, rcx, PENDING_BYTES
    add rcx, [rbx + reader.queue]
    call read_cycles
    mov r15, rax                            ; where the install begins
    sub rax, [rcx + pending.due_cycles]
    jb .later
    mov r12, [rcx + pending.page]
    inc qword ptr [rbx + reader.queue_head]
    add rax, [rbx + resolver.fetch_delay_cycles]
    add [rbx + resolver.fetch_cycles], rax
    inc qword ptr [rbx + resolver.fetches]
    call supply
    test eax, eax
    jnz .leave
    mov eax, RETURN_STOPPED
    cmp dword ptr [rbx + resolver.stop], 0
    je due_installs
.leave:
    ret
.later:
    neg rax
    mul qword ptr [rbx + resolver.ns_per_cycle_q32]
    shr rax, 32
    shl rdx, 32
    or rax, rdx
    inc rax                                 ; rounded up: not to wake before it is due
    mov [rbx + reader.timeout_ns], rax
    xor eax, eax
    ret
