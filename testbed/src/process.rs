use std::{
    env,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use netns_link::NetNs;

use crate::error::Error;

/// A process in a namespace. Dropping it kills it and waits for its end.
#[derive(Debug)]
pub struct Process {
    child: Child,
}

impl Process {
    /// Starts one.
    ///
    /// # Errors
    /// If the program does not exist or the namespace cannot be entered.
    pub fn start(namespace: &NetNs, command: &mut Command) -> Result<Self, Error> {
        Ok(Self { child: namespace.spawn(command)? })
    }

    pub(crate) fn pause(namespace: &NetNs) -> Result<Self, Error> {
        // It ends when its input ends, so even if this program is killed, it does not stay behind.
        Self::start(namespace, Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()))
    }

    /// Its PID: the namespace is /proc/PID/ns/net.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended by itself.
    pub(crate) fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a program in a namespace to its end and returns what it prints. The first word is its
/// name; the package is the Debian package that contains it.
///
/// # Errors
/// If it is not installed, cannot be started, or fails; the error contains what it prints.
pub fn run(namespace: &NetNs, package: &str, words: &[&str]) -> Result<String, Error> {
    let (name, arguments) = words.split_first().unwrap_or((&"", &[]));
    let mut command = Command::new(program(name, package)?);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let failed = |error: String| Error::new(words.join(" "), error);
    let output = namespace
        .spawn(&mut command)?
        .wait_with_output()
        .map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(failed(format!("{}: {}", output.status, said.trim_end())));
    }
    String::from_utf8(output.stdout).map_err(|error| failed(error.to_string()))
}

/// Adds a rule to a namespace's IPv4 firewall, in `iptables` syntax.
///
/// Debian's package has one program for each of the kernel's two filters. A kernel may have only one
/// of the filters.
///
/// # Errors
/// As [`run`].
pub fn iptables(namespace: &NetNs, rule: &str) -> Result<(), Error> {
    const PACKAGE: &str = "iptables";
    let table = match rule.split_once("-t ") {
        Some((_, rest)) => rest.split(' ').next().unwrap_or_default(),
        None => "filter",
    };
    let legacy = run(namespace, PACKAGE, &["iptables-legacy", "-t", table, "-S"]).is_ok();
    let program = if legacy { "iptables-legacy" } else { "iptables" };
    let words: Vec<&str> = [program].into_iter().chain(rule.split(' ')).collect();
    run(namespace, PACKAGE, &words).map(drop)
}

/// The path of a program: in PATH, or in Debian's directories for the administrator, which are not in
/// an ordinary user's PATH.
///
/// # Errors
/// If it is not installed; the error names the package to install.
pub fn program(name: &str, package: &str) -> Result<PathBuf, Error> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from))
        .map(|dir| dir.join(OsStr::new(name)))
        .find(|file| is_program(file))
        .ok_or_else(|| {
            Error::new(name, format!("not installed: apt-get install {package}, then try again"))
        })
}

fn is_program(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    fs::metadata(file).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}
