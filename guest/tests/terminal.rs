//! Commands in a guest that use this process's terminal.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::{
    fs::{self, File},
    io::{Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::ExitStatusExt,
    },
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    pty::{OpenptyResult, Winsize, openpty},
    sys::{
        signal::{Signal, kill},
        termios::{self, LocalFlags, Termios},
    },
    unistd::{Pid, Uid},
};
use rustix::termios::tcsetwinsize;

const PROGRAM: &str = env!("CARGO_BIN_EXE_lvs-guest");
/// How long a guest may take for its output: QEMU's are slow.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn the_command_has_the_terminal_with_its_size() {
    for kernel in kernels() {
        let script = "stty size; test -t 0 && test -t 1 && test -t 2 && echo three; tty; \
                      printf %s \"$TERM\"; read line; echo \"got $line\"; exit 7";
        let mut screen = Screen::start(&["--kernel", kernel], script);
        screen.expect("40 100\r\nthree\r\n/dev/pts/0\r\nvt220");
        screen.keys("typed\x7fd\r");
        screen.expect("got typed\r\n");
        assert_eq!(screen.end().code(), Some(7), "{kernel}: {}", screen.said());
    }
}

#[test]
fn another_size_goes_in() {
    for kernel in kernels() {
        let script = "trap 'stty size; exit 5' WINCH; stty size; while :; do sleep 0.1; done";
        let mut screen = Screen::start(&["--kernel", kernel], script);
        screen.expect("40 100");
        screen.resize(50, 132);
        screen.expect("50 132");
        assert_eq!(screen.end().code(), Some(5), "{kernel}: {}", screen.said());
    }
}

#[test]
fn control_c_is_the_commands() {
    let script = "trap 'echo caught; exit 3' INT; echo up; while :; do sleep 0.1; done";
    let mut screen = Screen::start(&[], script);
    screen.expect("up");
    screen.keys("\x03");
    screen.expect("caught");
    assert_eq!(screen.end().code(), Some(3), "{}", screen.said());

    let mut screen = Screen::start(&[], "echo up; exec sleep 100");
    screen.expect("up");
    screen.keys("\x03");
    assert_eq!(screen.end_by_signal(), Some(2), "{}", screen.said());
    // Before the command starts, it ends the guest.
    let mut screen = Screen::start(&["--verbose"], "sleep 100");
    screen.expect("Linux version");
    screen.keys("\x03");
    assert_eq!(screen.end_by_signal(), Some(2), "{}", screen.said());
}

#[test]
fn control_z_stops_the_job_and_it_goes_on() {
    let mut screen = Screen::new();
    let mut bash = screen.command();
    // A shell with job control, as a user has it.
    bash.args(["bash", "--norc", "--noprofile", "-i"]).env("PS1", "ready> ");
    screen.spawn(bash);
    screen.expect("ready> ");
    screen.keys(&format!(
        "{PROGRAM} --place guest -- sh -c 'echo up $((6*7)); read x; echo $x $((2*4)); stty size'\r"
    ));
    screen.expect("up 42\r\n");
    screen.keys("\x1a");
    screen.expect("Stopped");
    screen.expect("ready> ");
    screen.resize(30, 90);
    screen.keys("fg\r");
    screen.expect("sh -c");
    screen.keys("word\r");
    screen.expect("word 8\r\n");
    screen.expect("30 90");
    screen.expect("ready> ");
    screen.keys("exit 4\r");
    assert_eq!(screen.end().code(), Some(4), "{}", screen.said());
}

#[test]
fn a_shell_has_job_control() {
    let mut screen = Screen::new();
    let mut bash = screen.guest(&[]);
    bash.args(["bash", "--norc", "--noprofile", "-i"]).env("PS1", "inside> ");
    screen.spawn(bash);
    screen.expect("inside> ");
    screen.keys("sleep 100\r");
    std::thread::sleep(Duration::from_millis(300));
    screen.keys("\x1a");
    screen.expect("Stopped");
    screen.keys("kill %1; exit 6\r");
    screen.keys("exit 6\r");
    assert_eq!(screen.end().code(), Some(6), "{}", screen.said());
    assert!(!screen.said().contains("no job control"), "{}", screen.said());
}

#[test]
fn the_terminal_is_as_it_was_whatever_ends_the_command() {
    type Ending = fn(&mut Screen);
    let endings: [(&[&str], &str, Ending, i32); 7] = [
        (&[], "echo up; exit 1", |_| {}, 1),
        (&["--time-limit", "2"], "echo up; sleep 100", |_| {}, 124),
        (&[], "echo up; sleep 0.2; echo c > /proc/sysrq-trigger", |_| {}, 125),
        (&[], "echo up; exec sleep 100", |screen| screen.signal(Signal::SIGTERM), 15),
        (&[], "echo up; exec sleep 100", |screen| screen.signal(Signal::SIGHUP), 1),
        (
            &[],
            "echo up; stty raw -echo; exec sleep 100",
            |screen| {
                // The keys that end a guest that does not respond.
                std::thread::sleep(Duration::from_millis(300));
                screen.keys("\x1d\x1d\x1d");
            },
            15,
        ),
        (&[], "echo up; kill -SEGV $$", |_| {}, 11),
    ];
    for (options, script, ending, status) in endings {
        let mut screen = Screen::start(options, script);
        let before = screen.settings();
        assert!(before.local_flags.contains(LocalFlags::ICANON | LocalFlags::ECHO));
        screen.expect("up\r\n");
        if script.contains("100") {
            let flags = screen.settings().local_flags;
            assert!(!flags.intersects(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG));
        }
        ending(&mut screen);
        assert_eq!(screen.end_by_signal(), Some(status), "{}", screen.said());
        assert_eq!(screen.settings(), before, "after {script}");
    }
}

#[test]
fn a_command_that_does_not_exist_is_reported() {
    for (command, status, word) in
        [("no-such-command", 127, "No such file"), ("/etc/passwd", 126, "Permission denied")]
    {
        let mut screen = Screen::new();
        let mut guest = screen.guest(&[]);
        guest.arg(command);
        screen.spawn(guest);
        assert_eq!(screen.end().code(), Some(status), "{}", screen.said());
        screen.expect(word);
    }
}

#[test]
fn output_comes_out_whole() {
    let mut screen = Screen::start(&[], "stty -opost; seq 1 200000");
    screen.expect("\n200000\n");
    let said = screen.said();
    let numbers: Vec<&str> = said.split('\n').filter(|line| !line.is_empty()).collect();
    assert_eq!(numbers.len(), 200_000, "{:?}", &numbers[..5]);
    assert_eq!(screen.end().code(), Some(0));
}

#[test]
fn standard_error_that_is_a_pipe_stays_apart() {
    let mut screen = Screen::new();
    let mut guest = screen.guest(&[]);
    guest.args(["sh", "-c", "test -t 2 || echo apart; echo words >&2"]).stderr(Stdio::piped());
    screen.spawn(guest);
    screen.expect("apart\r\n");
    let mut errors = String::new();
    screen.child.as_mut().unwrap().stderr.take().unwrap().read_to_string(&mut errors).unwrap();
    assert_eq!(screen.end().code(), Some(0));
    assert_eq!(errors, "words\n");
    assert!(!screen.said().contains("words"));
}

#[test]
fn without_a_terminal_at_both_ends_there_is_none_inside() {
    let script = "for n in 0 1 2; do test -t $n || echo $n; done; cat";
    let mut screen = Screen::new();
    let mut guest = screen.command_on(PROGRAM);
    guest.args(["--place", "guest", "--", "sh", "-c", script]).stdin(Stdio::piped());
    screen.spawn(guest);
    screen.child.as_mut().unwrap().stdin.take().unwrap().write_all(b"piped\n").unwrap();
    screen.expect("0\r\n1\r\n2\r\npiped\r\n");
    assert_eq!(screen.end().code(), Some(0));

    let mut screen = Screen::new();
    let mut guest = screen.guest(&[]);
    guest.args(["sh", "-c", script]).stdout(Stdio::piped());
    screen.spawn(guest);
    let output = screen.output();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "0\n1\n2\n");
}

#[test]
fn one_terminal_has_one_guest() {
    let mut first = Screen::start(&[], "echo up; read x");
    first.expect("up");
    let script = "test -t 0 || echo none; readlink /proc/self/fd/0";
    let second = Command::new(PROGRAM)
        .args(["--place", "guest", "--", "sh", "-c", script])
        .stdin(first.inside.try_clone().unwrap())
        .stdout(first.inside.try_clone().unwrap())
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(0), "{second:?}");
    first.expect("none");
    first.expect("/dev/null");
    first.keys("\r");
    assert_eq!(first.end().code(), Some(0));
}

/// The kernels to test: QEMU needs root.
fn kernels() -> Vec<&'static str> {
    let path = std::env::var_os("PATH").unwrap();
    let has_qemu =
        std::env::split_paths(&path).any(|path| path.join("qemu-system-x86_64").exists());
    let mut kernels = vec!["uml"];
    if has_qemu && Uid::effective().is_root() {
        kernels.push("qemu-6.1");
    } else {
        println!("not tested in QEMU: it is not here, or this is not root");
    }
    kernels
}

/// A new terminal, with a program on it.
struct Screen {
    outside: File,
    inside: OwnedFd,
    child: Option<Child>,
    said: Vec<u8>,
    /// How much of the output was expected.
    seen: usize,
}

impl Screen {
    fn new() -> Self {
        let size = Winsize { ws_row: 40, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 };
        let OpenptyResult { master, slave } = openpty(&size, None).unwrap();
        Self { outside: master.into(), inside: slave, child: None, said: Vec::new(), seen: 0 }
    }

    /// A shell's script in a guest, on a new terminal.
    fn start(options: &[&str], script: &str) -> Self {
        let mut screen = Self::new();
        let mut command = screen.guest(options);
        command.args(["sh", "-c", script]);
        screen.spawn(command);
        screen
    }

    /// A program that has this terminal as its controlling terminal.
    fn command(&self) -> Command {
        let mut command = self.command_on("setsid");
        command.arg("--ctty");
        command
    }

    fn command_on(&self, program: &str) -> Command {
        let inside = || self.inside.try_clone().unwrap();
        let mut command = Command::new(program);
        command.env("TERM", "vt220").stdin(inside()).stdout(inside()).stderr(inside());
        command
    }

    fn guest(&self, options: &[&str]) -> Command {
        assert!(Path::new("/usr/bin/setsid").exists(), "util-linux is not installed");
        let mut command = self.command();
        command.arg(PROGRAM).args(["--place", "guest"]).args(options).arg("--");
        command
    }

    fn spawn(&mut self, mut command: Command) {
        self.child = Some(command.spawn().unwrap());
    }

    fn keys(&mut self, keys: &str) {
        self.outside.write_all(keys.as_bytes()).unwrap();
    }

    fn resize(&self, rows: u16, columns: u16) {
        let size =
            rustix::termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&self.outside, size).unwrap();
    }

    fn settings(&self) -> Termios {
        termios::tcgetattr(&self.inside).unwrap()
    }

    fn signal(&mut self, signal: Signal) {
        kill(Pid::from_raw(self.child.as_ref().unwrap().id() as i32), signal).unwrap();
    }

    /// Waits for a text after the text expected before.
    fn expect(&mut self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let rest = &self.said[self.seen..];
            if let Some(at) = rest.windows(text.len()).position(|found| found == text.as_bytes()) {
                self.seen += at + text.len();
                return;
            }
            assert!(Instant::now() < deadline, "no {text:?} in {:?}", self.said());
            self.read();
        }
    }

    /// Reads the output that is there, waiting for a moment.
    fn read(&mut self) {
        let mut waited = [PollFd::new(self.outside.as_fd(), PollFlags::POLLIN)];
        if poll(&mut waited, PollTimeout::from(50u8)).unwrap() > 0 {
            let mut piece = [0; 65536];
            let length = self.outside.read(&mut piece).unwrap();
            self.said.extend(&piece[..length]);
        }
    }

    fn said(&self) -> String {
        String::from_utf8_lossy(&self.said).into_owned()
    }

    fn end(&mut self) -> std::process::ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        let mut child = self.child.take().unwrap();
        loop {
            self.read();
            if let Some(status) = child.try_wait().unwrap() {
                self.read();
                return status;
            }
            if Instant::now() > deadline {
                child.kill().unwrap();
                panic!("it does not end: {:?}", self.said());
            }
        }
    }

    /// The exit status, or the signal. If the test inherits that a signal ends no process, as under
    /// nohup, the status is a shell's for the signal.
    fn end_by_signal(&mut self) -> Option<i32> {
        let end = self.end();
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
        let mask = u64::from_str_radix(mask.trim(), 16).unwrap();
        let by_shell = end.code().map(|code| code - 128).filter(|number| (1..=31).contains(number));
        by_shell.filter(|number| mask & (1 << (number - 1)) != 0).or(end.code()).or(end.signal())
    }

    fn output(&mut self) -> Output {
        self.child.take().unwrap().wait_with_output().unwrap()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
