; What a reader does with a page it was told of: variants of `take` and, with it, of `install_due`.
;   take:        r12 = page -> eax = RETURN_*
;   install_due: install what has come in -> eax = RETURN_*; sets reader.timeout_ns

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
    mov edi, CLOCK_MONOTONIC
    call read_clock
    test eax, eax
    jnz .leave
    add rdx, [rbx + resolver.fetch_delay_ns]
    mov rcx, [rbx + reader.queue_tail]
    inc qword ptr [rbx + reader.queue_tail]
    and rcx, [rbx + reader.queue_mask]
    imul rcx, rcx, PENDING_BYTES
    add rcx, [rbx + reader.queue]
    mov [rcx + pending.due_ns], rdx
    mov [rcx + pending.page], r12
    mov r14, rcx
    call read_cycles
    mov [r14 + pending.claimed_cycles], rax
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
    mov r14, rcx
    mov edi, CLOCK_MONOTONIC
    call read_clock
    test eax, eax
    jnz .leave
    mov rax, [r14 + pending.due_ns]
    sub rax, rdx
    ja .later
    mov r12, [r14 + pending.page]
    inc qword ptr [rbx + reader.queue_head]
    call read_cycles
    sub rax, [r14 + pending.claimed_cycles]
    add [rbx + resolver.fetch_cycles], rax
    inc qword ptr [rbx + resolver.fetches]
    call supply
    test eax, eax
    jz due_installs
.leave:
    ret
.later:
    mov [rbx + reader.timeout_ns], rax
    xor eax, eax
    ret
