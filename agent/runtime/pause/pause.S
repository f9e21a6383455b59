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
1:  movl $34, %eax          /* pause(2) */
    syscall
    jmp 1b
#elif defined(__aarch64__)
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
    .section .note.GNU-stack,"",%progbits
