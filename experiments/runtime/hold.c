// Holds a whole process, ONNX Runtime too, to an instruction set: CPUID is trapped (Linux `arch_prctl`, where the CPU or the hypervisor
// can), and its answer is that of a CPU without AVX-512 and AMX, and without AVX-VNNI unless HOLD=avxvnni. With HOLD=show-avxvnni
// it is that of a CPU with AVX-VNNI, for a virtual machine that hides what its CPU runs.
//
//     gcc -O1 -shared -fPIC -o target/hold.so experiments/runtime/hold.c
//     HOLD=avx2 LD_PRELOAD=target/hold.so COMMAND
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define ARCH_SET_CPUID 0x1012
#define BIT(n) (1u << (n))

static int vnni, shown;

static long allow_cpuid(int on) { return syscall(SYS_arch_prctl, ARCH_SET_CPUID, on); }

static void on_fault(int signal_number, siginfo_t *info, void *context) {
  (void)info;
  greg_t *r = ((ucontext_t *)context)->uc_mcontext.gregs;
  const unsigned char *code = (const unsigned char *)r[REG_RIP];
  if (code[0] != 0x0f || code[1] != 0xa2) {  // Not CPUID: a fault of the program's own.
    signal(signal_number, SIG_DFL);
    return;
  }
  unsigned a = r[REG_RAX], b, c = r[REG_RCX], d;
  const unsigned leaf = a, part = c;
  allow_cpuid(1);
  __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
  allow_cpuid(0);
  if (leaf == 7 && part == 0) {
    b &= ~(BIT(16) | BIT(17) | BIT(21) | BIT(26) | BIT(27) | BIT(28) | BIT(30) | BIT(31));       // AVX-512 F, DQ, IFMA, PF, ER, CD, BW, VL
    c &= ~(BIT(1) | BIT(6) | BIT(11) | BIT(12) | BIT(14));                                       // VBMI, VBMI2, VNNI, BITALG, VPOPCNTDQ
    d &= ~(BIT(2) | BIT(3) | BIT(8) | BIT(22) | BIT(23) | BIT(24) | BIT(25));                    // 4VNNIW, 4FMAPS, VP2INTERSECT, AMX, FP16
  }
  if (leaf == 7 && part == 0 && shown && a == 0) a = 1;                                          // The last part.
  if (leaf == 7 && part == 1) {
    a &= ~(BIT(5) | (vnni ? 0 : BIT(4)));                                                        // AVX512_BF16, AVX-VNNI
    if (shown) a |= BIT(4);
  }
  r[REG_RAX] = a, r[REG_RBX] = b, r[REG_RCX] = c, r[REG_RDX] = d;
  r[REG_RIP] += 2;
}

__attribute__((constructor)) static void hold(void) {
  const char *to = getenv("HOLD");
  if (!to) return;
  shown = !strcmp(to, "show-avxvnni");
  vnni = shown || !strcmp(to, "avxvnni");
  struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_NODEFER};
  if (sigaction(SIGSEGV, &action, NULL) || allow_cpuid(0)) {
    perror("hold");
    _exit(1);
  }
}
