//! How long a guest's processes waited for a processor: their time limit is extended by that.

use std::{fs, time::Duration};

use nix::unistd::{self, Pid};

/// The extension at most, as a multiple of the time limit.
const MOST: u32 = 3;

/// How much time a guest gets beyond its limit: the time that the living processes of its group waited for a
/// busy processor. Zero if the kernel does not count it.
pub(super) fn allowance(group: Pid, limit: Duration) -> Duration {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let waited = numbers
        .filter(|&number| unistd::getpgid(Some(Pid::from_raw(number))) == Ok(group))
        .flat_map(|number| fs::read_dir(format!("/proc/{number}/task")).into_iter().flatten())
        .filter_map(|task| fs::read_to_string(task.ok()?.path().join("schedstat")).ok())
        .filter_map(|text| waited(&text))
        .sum::<Duration>();
    waited.min(limit * MOST)
}

/// The second number: nanoseconds in which a thread could have run and did not.
fn waited(text: &str) -> Option<Duration> {
    text.split_ascii_whitespace().nth(1)?.parse().ok().map(Duration::from_nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_is_counted_up_to_a_bound() {
        assert_eq!(waited("5123 2000000000 17\n"), Some(Duration::from_secs(2)));
        assert_eq!(waited(""), None);
        let limit = Duration::from_nanos(1);
        assert!(allowance(unistd::getpgrp(), limit) <= limit * MOST);
        assert_eq!(allowance(Pid::from_raw(i32::MAX), Duration::MAX / 4), Duration::ZERO);
    }
}
