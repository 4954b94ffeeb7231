//! A line on standard error that shows progress.

use std::{
    io::{self, IsTerminal, Write},
    time::{Duration, Instant},
};

/// Time between two lines if the output is no terminal.
const INTERVAL: Duration = Duration::from_secs(10);

/// On a terminal one line that changes; elsewhere a line every ten seconds.
pub(super) struct Progress {
    on_terminal: bool,
    /// When it last printed something, or was made.
    last: Instant,
    /// The text of the line on a terminal.
    shown: String,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self { on_terminal: io::stderr().is_terminal(), last: Instant::now(), shown: String::new() }
    }

    pub(super) fn say(&mut self, now: Instant, text: &str) {
        if let Some(line) = self.line(now, text) {
            // If nobody can read it, that does not matter.
            let _ = io::stderr().write_all(line.as_bytes());
        }
    }

    /// Clears the line on a terminal.
    pub(super) fn clear(&mut self) {
        if self.on_terminal {
            self.shown.clear();
            let _ = io::stderr().write_all(b"\r\x1b[K");
        }
    }

    fn line(&mut self, now: Instant, text: &str) -> Option<String> {
        if self.on_terminal {
            let is_new = self.shown != text;
            text.clone_into(&mut self.shown);
            return is_new.then(|| format!("\r\x1b[Kguest: {text}"));
        }
        if now.saturating_duration_since(self.last) < INTERVAL {
            return None;
        }
        self.last = now;
        Some(format!("guest: {text}\n"))
    }
}

/// A number of bytes in MB, with a digit after the point.
pub(super) fn megabytes(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_has_one_line_and_a_file_one_every_ten_seconds() {
        let start = Instant::now();
        let mut terminal = Progress { on_terminal: true, last: start, shown: String::new() };
        assert_eq!(terminal.line(start, "1 %").unwrap(), "\r\x1b[Kguest: 1 %");
        assert_eq!(terminal.line(start, "2 %").unwrap(), "\r\x1b[Kguest: 2 %");
        assert_eq!(terminal.line(start, "2 %"), None);
        let mut file = Progress { on_terminal: false, last: start, shown: String::new() };
        let printed: Vec<_> = (0..25)
            .filter_map(|second| {
                file.line(start + Duration::from_secs(second), &second.to_string())
            })
            .collect();
        assert_eq!(printed, ["guest: 10\n", "guest: 20\n"]);
    }
}
