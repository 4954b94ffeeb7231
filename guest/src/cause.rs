//! Why a guest ended, from the end of its kernel log.

use std::fmt;

use nix::sys::{signal::Signal, wait::WaitStatus};

/// How many lines of a kernel's log are shown.
const LINES: usize = 5;

/// A known reason for the end of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// User-Mode Linux before 6.13 on a processor with AMX.
    Registers,
    /// A process may not trace another here.
    Ptrace,
    /// The kernel does not run with this machine's C library.
    Library,
    /// The file that is the guest's memory is in a directory mounted noexec.
    NoExec,
    /// The disk has no room for the file that is the guest's memory.
    Space,
    /// The machine has no memory left, or refuses it.
    Memory,
    /// The guest has no memory left.
    GuestMemory,
}

impl Cause {
    /// Finds the cause in a kernel's log.
    ///
    /// `is_limited` is whether the process has a limit on memory (`ulimit -v`).
    pub(crate) fn of(status: WaitStatus, log: &str, is_limited: bool) -> Option<Self> {
        let says = |texts: &[&str]| texts.iter().any(|text| log.contains(text));
        if says(&["ptrace set fp regs failed"]) {
            Some(Self::Registers)
        } else if says(&["check_ptrace", "start_ptraced_child", "stop_ptraced_child"]) {
            Some(Self::Ptrace)
        } else if says(&["GLIBC_", "error while loading shared libraries"]) {
            Some(Self::Library)
        } else if says(&["must be not mounted noexec"]) {
            Some(Self::NoExec)
        } else if says(&["mount likely just ran out of space", "No space left"]) {
            Some(Self::Space)
        } else if says(&["Cannot allocate memory", "cannot set up guest memory", "errno = 12", "errno = -12"])
            || matches!(status, WaitStatus::Signaled(_, Signal::SIGKILL, _))
            // `quiet` suppresses the kernel's message about it.
            || log.trim().is_empty() && is_limited
        {
            Some(Self::Memory)
        } else if says(&["deadlocked on memory", "Out of memory"]) {
            Some(Self::GuestMemory)
        } else {
            None
        }
    }

    /// What helps on any machine.
    pub(crate) fn ways(self, memory: u32) -> Vec<String> {
        match self {
            Self::Registers => {
                vec!["use a virtual machine whose processor model has no AMX".to_owned()]
            }
            Self::Ptrace => vec![
                "use a container that may trace: docker run --cap-add SYS_PTRACE, or --security-opt \
                 seccomp=unconfined"
                    .to_owned(),
            ],
            Self::Library => vec![
                "set LVS_GUEST_KERNEL=uml-testing and leave LVS_GUEST_UML empty: that kernel brings its \
                 own C library"
                    .to_owned(),
            ],
            Self::NoExec => {
                vec!["set TMPDIR=DIRECTORY to one with room that is not mounted noexec".to_owned()]
            }
            Self::Space => vec![
                format!("set TMPDIR=DIRECTORY to one that has room for {memory} MB"),
                "set LVS_GUEST_MEMORY=64 (MiB; 128 for QEMU) to need less room".to_owned(),
            ],
            Self::Memory => {
                vec!["set LVS_GUEST_MEMORY=64 (MiB; 128 for QEMU) to need less memory".to_owned()]
            }
            Self::GuestMemory => {
                vec![format!(
                    "set LVS_GUEST_MEMORY={} (MiB) to give it more memory",
                    memory.max(256) * 2
                )]
            }
        }
    }

    /// The first release of User-Mode Linux without this fault, if it is the kernel's.
    pub(crate) fn fixed_in(self) -> Option<(u32, u32)> {
        match self {
            Self::Registers => Some((6, 13)),
            Self::Ptrace => Some((6, 16)),
            _ => None,
        }
    }

    /// Whether the machine is at fault: then another kernel would fail too, and none is tried.
    pub(crate) fn is_machine_fault(self) -> bool {
        matches!(self, Self::NoExec | Self::Space | Self::Memory | Self::GuestMemory)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Registers => {
                "this processor has AMX, and User-Mode Linux before 6.13 does not know its registers"
            }
            Self::Ptrace => {
                "a process may not trace another here (ptrace), as in some containers, and User-Mode \
                 Linux before 6.16 needs that"
            }
            Self::Library => "it needs another C library than this machine's",
            Self::NoExec => {
                "its memory is a file in a directory mounted noexec, and a kernel runs from its memory"
            }
            Self::Space => "there is no room for the file that is its memory",
            Self::Memory => "this machine has no memory for it, or a limit forbids it (ulimit -v)",
            Self::GuestMemory => "it had too little memory",
        })
    }
}

/// The last readable lines of a kernel's log, up to its panic if there was one: without stack and
/// registers.
pub(crate) fn log_end(log: &str) -> String {
    let mut lines: Vec<&str> = log.lines().filter(|line| is_readable(line)).collect();
    if let Some(panic) = lines.iter().rposition(|line| line.contains("Kernel panic")) {
        lines.truncate(panic + 1);
    }
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}

/// Whether a line has words and no addresses.
fn is_readable(line: &str) -> bool {
    const HEADINGS: [&str; 6] =
        ["Call Trace:", "Stack:", "Modules linked in:", "Code:", "<TASK>", "</TASK>"];
    // Each line of a verbose log starts with a time such as `[    0.120000] `.
    let text = match line.trim_start().split_once("] ") {
        Some((time, text)) if time.starts_with('[') && time.contains('.') => text,
        _ => line,
    };
    let text = text.trim();
    let is_address = |word: &str| {
        let digits = word.trim_start_matches("0x").trim_matches(['[', '<', '>', ']', '(', ')']);
        let is_number = digits.len() < 16 && digits.bytes().all(|byte| byte.is_ascii_digit());
        digits.len() >= 8 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()) && !is_number
    };
    !text.is_empty()
        && !HEADINGS.iter().any(|heading| text.starts_with(heading))
        && !text.split([' ', ':', '=', ',']).any(is_address)
}

#[cfg(test)]
mod tests {
    use nix::unistd::Pid;

    use super::*;

    const EXITED: WaitStatus = WaitStatus::Exited(Pid::from_raw(1), 134);

    /// What 6.1 prints on a processor with AMX.
    const AMX: &str = "Core dump limits :\n\tsoft - 0\n\thard - 0\n\
        Checking that ptrace can change system call numbers...OK\n\
        userspace - ptrace set fp regs failed, errno = 14\n\
        Kernel panic - not syncing: userspace - ptrace set fp regs failed, errno = 14\n\
        CPU: 0 PID: 1 Comm: init Not tainted 6.1.176 #1\n\
        Stack:\n 60a4bde0 60043c1f 00000001\n [<6004a0b5>] ? panic+0x1a0\n\
        Call Trace:\n [<60043c1f>] show_stack+0x13b/0x155\nRIP: 0033:0000000060025ac4\n\n\n";

    #[test]
    fn each_cause_is_found_in_its_log() {
        for (log, cause) in [
            (AMX, Cause::Registers),
            ("check_ptrace : expected SIGSTOP, got status = 9", Cause::Ptrace),
            ("/tmp must be not mounted noexec", Cause::NoExec),
            (
                "linux.uml: /lib/libc.so.6: version `GLIBC_2.38' not found (required by linux.uml)",
                Cause::Library,
            ),
            (
                "Bus error - the host /dev/shm or /tmp mount likely just ran out of space",
                Cause::Space,
            ),
            (
                "setup_physmem - mapping 1 bytes of memory at 0x6 failed - errno = -12",
                Cause::Memory,
            ),
            (
                "qemu-system-x86_64: cannot set up guest memory 'memory': Cannot allocate memory",
                Cause::Memory,
            ),
            ("Kernel panic - not syncing: System is deadlocked on memory", Cause::GuestMemory),
        ] {
            assert_eq!(Cause::of(EXITED, log, false), Some(cause), "{log}");
        }
        // Checks that passed are no cause.
        let well = "Checking that ptrace can change system call numbers...OK\n\
                    Checking PROT_EXEC mmap in /dev/shm...OK\nKernel panic - not syncing: x";
        assert_eq!(Cause::of(EXITED, well, true), None);
        assert_eq!(Cause::of(EXITED, "\n", true), Some(Cause::Memory));
        assert_eq!(Cause::of(EXITED, "\n", false), None);
        let killed = WaitStatus::Signaled(Pid::from_raw(1), Signal::SIGKILL, false);
        assert_eq!(Cause::of(killed, well, false), Some(Cause::Memory));
    }

    #[test]
    fn the_end_of_a_log_has_no_addresses() {
        assert_eq!(
            log_end(AMX),
            "\tsoft - 0\n\thard - 0\nChecking that ptrace can change system call numbers...OK\n\
             userspace - ptrace set fp regs failed, errno = 14\n\
             Kernel panic - not syncing: userspace - ptrace set fp regs failed, errno = 14"
        );
        assert_eq!(
            log_end("[    0.12] sysrq: Trigger\n[    0.2] RAX: 00000000deadbeef"),
            "[    0.12] sysrq: Trigger"
        );
        let numbers = "setup_physmem - mapping 520306688 bytes of memory";
        assert_eq!(log_end(numbers), numbers);
        assert_eq!(log_end(""), "");
    }
}
