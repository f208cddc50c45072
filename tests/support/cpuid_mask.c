/* Hides instructions of an x86 CPU from a process, so that libraries take the kernels of an older one.
 *
 * Loaded with LD_PRELOAD. Linux lets a thread ask that CPUID raises SIGSEGV (arch_prctl, ARCH_SET_CPUID; threads and
 * forks inherit it), and the handler answers in its place, less what CPUID_MASK names: "vnni" takes away what adds
 * 8-bit products in 32 bits, "avx512" that and AVX-512. Needs a CPU and a hypervisor with CPUID faulting. Handlers that
 * the program sets for SIGSEGV itself (compilers and test runners do) wait behind this one.
 */
#define _GNU_SOURCE
#include <cpuid.h>
#include <dlfcn.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#ifndef ARCH_SET_CPUID
#define ARCH_SET_CPUID 0x1012
#endif
#define BIT(n) (1u << (n))

typedef int (*sigaction_t)(int, const struct sigaction *, struct sigaction *);
typedef sighandler_t (*signal_t)(int, sighandler_t);

static struct sigaction program; /* what the program wants for SIGSEGV */
static int hides_avx512, hides;

static int set_action(int number, const struct sigaction *action, struct sigaction *old) {
    static sigaction_t real;
    if (real == NULL) real = (sigaction_t)dlsym(RTLD_NEXT, "sigaction");
    return real(number, action, old);
}

int sigaction(int number, const struct sigaction *action, struct sigaction *old) {
    if (number != SIGSEGV || !hides) return set_action(number, action, old);
    if (old != NULL) *old = program;
    if (action != NULL) program = *action;
    return 0;
}

sighandler_t signal(int number, sighandler_t handler) {
    struct sigaction action, old;
    if (number != SIGSEGV || !hides) return ((signal_t)dlsym(RTLD_NEXT, "signal"))(number, handler);
    memset(&action, 0, sizeof action);
    action.sa_handler = handler;
    sigaction(number, &action, &old);
    return old.sa_handler;
}

static void answer(unsigned leaf, unsigned subleaf, unsigned r[4]) {
    syscall(SYS_arch_prctl, ARCH_SET_CPUID, 1);
    __cpuid_count(leaf, subleaf, r[0], r[1], r[2], r[3]);
    syscall(SYS_arch_prctl, ARCH_SET_CPUID, 0);
    if (leaf == 7 && subleaf == 0) {
        r[2] &= ~BIT(11);                        /* AVX512_VNNI */
        r[3] &= ~(BIT(22) | BIT(24) | BIT(25));  /* AMX */
    }
    if (leaf == 7 && subleaf == 1) {
        r[0] &= ~(BIT(4) | BIT(21));             /* AVX_VNNI, AMX_FP16 */
        r[3] &= ~(BIT(4) | BIT(8) | BIT(10));    /* AVX_VNNI_INT8, AMX_COMPLEX, AVX_VNNI_INT16 */
    }
    if (hides_avx512 && leaf == 7 && subleaf == 0) {
        r[1] &= ~(BIT(16) | BIT(17) | BIT(21) | BIT(26) | BIT(27) | BIT(28) | BIT(30) | BIT(31));
        r[2] &= ~(BIT(1) | BIT(6) | BIT(12) | BIT(14));
        r[3] &= ~(BIT(2) | BIT(3) | BIT(8) | BIT(23));
    }
    if (hides_avx512 && leaf == 7 && subleaf == 1) {
        r[0] &= ~BIT(5);                         /* AVX512_BF16 */
        r[3] &= ~BIT(19);                        /* AVX10 */
    }
}

static void on_fault(int number, siginfo_t *info, void *context) {
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    const unsigned char *code = (const unsigned char *)registers[REG_RIP];
    if (info->si_code == SI_KERNEL && code[0] == 0x0f && code[1] == 0xa2) {
        unsigned r[4];
        answer((unsigned)registers[REG_RAX], (unsigned)registers[REG_RCX], r);
        registers[REG_RAX] = r[0];
        registers[REG_RBX] = r[1];
        registers[REG_RCX] = r[2];
        registers[REG_RDX] = r[3];
        registers[REG_RIP] += 2;
        return;
    }
    set_action(SIGSEGV, &program, NULL); /* a real fault happens again, and is the program's */
}

__attribute__((constructor)) static void hide(void) {
    const char *what = getenv("CPUID_MASK");
    struct sigaction action;
    if (what == NULL) return;
    hides_avx512 = strcmp(what, "avx512") == 0;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_NODEFER;
    set_action(SIGSEGV, &action, &program);
    hides = 1;
    if (syscall(SYS_arch_prctl, ARCH_SET_CPUID, 0) != 0) {
        perror("CPUID faulting is not to be had here");
        _exit(77);
    }
}
