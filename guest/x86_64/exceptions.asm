; What becomes of an exception, which this guest never takes on purpose: it is reported, not survived.
; Every vector's gate leads to its own `call trap` in the table (kvmpc/vm/x86.py), so the return address
; on the stack names the vector. Ring 0, on the stack in the vCPU's own page (TSS.rsp0).
;
; The host reads the stack: [return into table] [error code, for some vectors] [rip] [cs] [rflags] ...

trap:
    mov rax, rsp
    and rax, -PAGE_BYTES                    ; the vCPU's page; its record is within
    mov [rax + VCPU_PAGE_RECORD + guest.trap_rsp], rsp
    mov rcx, cr2
    mov [rax + VCPU_PAGE_RECORD + guest.trap_cr2], rcx
    out TRAP_PORT, al
    hlt
