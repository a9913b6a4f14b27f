; Variants of steps for a latency split: the page itself carries when what was done for it, in host
; TSC cycles, to where kvmpc/loops/stamps.py looks for it afterwards. No step does more work than stamping.
; (`fetch` and `stage` as in fetch.asm and resolve.asm, `publish` as there.)

; fetch_*_noted: in r15 = TSC at the claim. The staging page keeps it while the bytes come in.
fetch_now_noted:
    mov rax, [rbx + resolver.staging]
    mov [rax + STAMP_CLAIMED], r15
    jmp fetch_now

fetch_sleep_noted:
    mov rax, [rbx + resolver.staging]
    mov [rax + STAMP_CLAIMED], r15
    jmp fetch_sleep

; stage_stamped: in: r15 = TSC when the bytes were there, STAMP_CLAIMED set
stage_stamped:
    call stage_tags                         ; leaves rdi = staging page
    mov [rdi + STAMP_FETCHED], r15
    call read_cycles
    mov [rdi + STAMP_INSTALL], rax
    ret

; stage_stamped_later: a page from the ring, of the entry taken last: it says when the claim was.
stage_stamped_later:
    mov rcx, [rbx + reader.queue_head]
    sub rcx, 1
    and rcx, [rbx + reader.queue_mask]
    imul rcx, rcx, PENDING_BYTES
    add rcx, [rbx + reader.queue]
    mov rax, [rcx + pending.due_cycles]
    sub rax, [rbx + resolver.fetch_delay_cycles]
    mov rdi, [rbx + resolver.staging]
    mov [rdi + STAMP_CLAIMED], rax
    jmp stage_stamped

; publish_stamped: the install has returned; the page is there, so this store faults nowhere. The
; guest leaves this word alone.
publish_stamped:
    call read_cycles
    mov rdx, r12
    shl rdx, UNIT_SHIFT
    add rdx, [rbx + resolver.data_hva]
    mov [rdx + STAMP_INSTALLED], rax
    jmp publish_bit
