; The rules that guest and host share, each written down once: which page an index means, and what a
; page holds. Macros only: guest and host are both assembled with this file before their own.
; The same rules in Python, for reports and checks: kvmpc/work/layout.py and kvmpc/work/tags.py.

; tag: value = gpa of a page -> the page's first word
.macro tag value, multiplier, seed
    imul value, multiplier
    xor value, seed
.endm

; last_word: value = the page's first word -> its last one
.macro last_word value
    rol value, 32
.endm

; page_offset: page = bytes from the start of the part to the page of `index`; changes rax, rcx, rdx.
; Run i >> shift begins every `stride` pages, the rest counts within it.
.macro page_offset page, index, shift, stride
    mov rcx, shift
    mov rax, index
    shr rax, cl
    mov rdx, rax
    shl rdx, cl
    mov page, index
    sub page, rdx
    imul rax, stride
    add page, rax
    shl page, UNIT_SHIFT
.endm
