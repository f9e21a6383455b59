/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The pause process of a pod: holds the namespaces and sleeps until it is killed. It needs no signal
 * handlers: SIGCHLD is ignored before it is executed, so the kernel reaps what a shared PID namespace
 * leaves to it, and it is ended by SIGKILL only. Assembled by build.rs.
 */
    .text
    .globl _start
_start:
#if defined(__x86_64__)
    movl $157, %eax         /* prctl(PR_SET_NAME, "pause"): else it is called after a descriptor */
    movl $15, %edi
    leaq name(%rip), %rsi
    syscall
1:  movl $34, %eax          /* pause(2) */
    syscall
    jmp 1b
#elif defined(__aarch64__)
    mov x0, #15             /* prctl(PR_SET_NAME, "pause"): else it is called after a descriptor */
    adr x1, name
    mov x8, #167
    svc #0
1:  mov x0, #0              /* ppoll(NULL, 0, NULL, NULL) */
    mov x1, #0
    mov x2, #0
    mov x3, #0
    mov x8, #73
    svc #0
    b 1b
#else
#error "pause.S has no code for this processor; add pause(2) or ppoll(2) in a loop"
#endif
name:
    .asciz "pause"
    .section .note.GNU-stack,"",%progbits
