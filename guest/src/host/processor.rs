//! What this machine's processor has, and what a process may do with it.

use std::fs;

/// The number of filters on this process's system calls: those of a container, which may refuse what a
/// kernel needs.
pub(super) fn filters() -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("Seccomp_filters"));
    line.unwrap_or_default().replace('\t', " ")
}

/// Whether the processor has AMX, whose registers User-Mode Linux does not know before 6.13.
pub(super) fn has_amx() -> bool {
    fs::read_to_string("/proc/cpuinfo").is_ok_and(|text| names_amx(&text))
}

fn names_amx(cpuinfo: &str) -> bool {
    cpuinfo
        .lines()
        .filter(|line| line.starts_with("flags"))
        .any(|line| line.split_ascii_whitespace().any(|flag| flag == "amx_tile"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amx_is_one_of_the_flags() {
        let cpuinfo =
            |flags| format!("processor\t: 0\nmodel name\t: amx_tile\nflags\t\t: {flags}\n");
        assert!(names_amx(&cpuinfo("fpu avx512f amx_bf16 amx_tile amx_int8 flush_l1d")));
        assert!(!names_amx(&cpuinfo("fpu avx512f")));
        assert!(!names_amx(&cpuinfo("fpu amx_tiles")));
        assert!(!names_amx(""));
    }
}
