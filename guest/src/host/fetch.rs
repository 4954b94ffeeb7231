//! Fetching Debian's packages by the machine's own apt, without root.

use std::{
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use crate::error::{Context, Error};

/// The keys of Debian's archive.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// Where it is unpacked there.
pub(super) const TREE: &str = "tree";

/// apt with a state directory of its own.
pub(super) struct Apt<'a> {
    directory: &'a Path,
}

impl Apt<'_> {
    pub(super) fn command(&self, program: &str, words: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.arg("-c").arg(self.directory.join("apt.conf")).args(words);
        command.current_dir(self.directory);
        command
    }

    fn write(&self, name: &str, text: &str) -> Result<(), Error> {
        let path = self.directory.join(name);
        fs::write(&path, text).context("write", path.display())
    }
}

/// Fetches the chosen packages into a directory and unpacks them in `tree` there; from Debian's
/// suites, or without any from the machine's own sources.
pub(super) fn fetch(
    directory: &Path,
    suites: &[&str],
    choose: impl FnOnce(&Apt<'_>) -> Result<Vec<String>, Error>,
) -> Result<PathBuf, Error> {
    let started = Instant::now();
    let of = if suites.is_empty() {
        String::new()
    } else {
        format!(" from Debian's {}", suites.join(", "))
    };
    eprintln!("guest: fetching a kernel with IPVS{of}, once (about 50 MB) ...");
    let tree = directory.join(TREE);
    for path in [directory.join("lists/partial"), directory.join("archives/partial"), tree.clone()]
    {
        fs::create_dir_all(&path).context("make the directory", path.display())?;
    }
    let apt = Apt { directory };
    apt.write("status", "")?;
    let configuration = apt_configuration(directory);
    apt.write("apt.conf", &configuration)?;
    if !suites.is_empty() {
        let addresses = said(&mut apt.command("apt-get", &["--print-uris", "update"]))?;
        let Some(lines) = source_lines(&addresses, suites) else {
            let reason = "this machine's apt has no source of Debian's archive".to_owned();
            return Err(Error::NoKernel { reason });
        };
        apt.write("sources.list", &lines)?;
        let sources = directory.join("sources.list");
        let sources = format!(
            "Dir::Etc::sourcelist \"{}\";\nDir::Etc::sourceparts \"/dev/null\";\n",
            sources.display()
        );
        apt.write("apt.conf", &(configuration + &sources))?;
    }
    // A failure of one of several sources need not matter. Its words do, if the package is not had.
    let update = said(&mut apt.command("apt-get", &["-q", "update"]));
    if let Err(Error::NoKernel { .. }) = update {
        return update.map(|_| tree);
    }
    let download = choose(&apt).and_then(|packages| {
        let mut words = vec!["-q", "download"];
        words.extend(packages.iter().map(String::as_str));
        said(&mut apt.command("apt-get", &words))
    });
    if let Err(download) = download {
        return Err(match (update, download) {
            (Err(Error::Fetch { words, .. }), Error::Fetch { command, words: more }) => {
                Error::Fetch { command, words: format!("{words}\n{more}") }
            }
            (Err(update), Error::NoKernel { .. }) => update,
            (Ok(_), Error::Fetch { words, .. }) if words.contains("Unable to locate") => {
                Error::NoKernel { reason: format!("apt says: {words}") }
            }
            (_, download) => download,
        });
    }
    for entry in fs::read_dir(directory).context("read", directory.display())?.flatten() {
        let path = entry.path();
        if path.extension() == Some(OsStr::new("deb")) {
            said(Command::new("dpkg").arg("-x").arg(&path).arg(&tree))?;
        }
    }
    eprintln!("guest: fetched in {:.1} s", started.elapsed().as_secs_f64());
    Ok(tree)
}

/// apt's lines for suites of Debian's archive, at the mirrors that this machine uses.
fn source_lines(addresses: &str, suites: &[&str]) -> Option<String> {
    let keys =
        if Path::new(KEYRING).exists() { format!(" [signed-by={KEYRING}]") } else { String::new() };
    let mirror = mirror(addresses)?;
    // A machine without updates of security gets what was in the archive's last edition.
    let security = security_mirror(addresses);
    let lines = suites.iter().filter_map(|suite| {
        let mirror = if suite.ends_with("-security") { security? } else { mirror };
        Some(format!("deb{keys} {mirror} {suite} main\n"))
    });
    Some(lines.collect())
}

/// The mirror that this machine uses of Debian's archive, from what apt would fetch: one has the
/// other suites as well. It is the source that has a suite of updates; others of the machine's
/// sources may be somebody else's.
fn mirror(addresses: &str) -> Option<&str> {
    let sources = || {
        addresses
            .lines()
            .filter_map(|line| line.strip_prefix('\'')?.split('\'').next()?.split_once("/dists/"))
            .filter(|(mirror, _)| !mirror.contains("security"))
    };
    let updated = sources()
        .find(|(_, rest)| rest.split('/').next().is_some_and(|suite| suite.ends_with("-updates")));
    updated.or_else(|| sources().next()).map(|(mirror, _)| mirror)
}

/// The same of the archive of security updates.
fn security_mirror(addresses: &str) -> Option<&str> {
    addresses
        .lines()
        .filter_map(|line| line.strip_prefix('\'')?.split('\'').next()?.split_once("/dists/"))
        .find(|(_, rest)| rest.split('/').next().is_some_and(|suite| suite.ends_with("-security")))
        .map(|(mirror, _)| mirror)
}

/// What apt is told, in a file, since a list cannot be emptied on its command line. All that it
/// writes goes below one directory; the machine's sources and keys are its own.
fn apt_configuration(directory: &Path) -> String {
    let directory = directory.display();
    format!(
        r#"#clear APT::Update;
#clear DPkg;
#clear APT::Architectures;
#clear Acquire::Languages;
Dir::State "{directory}";
Dir::State::status "{directory}/status";
Dir::State::lists "{directory}/lists";
Dir::Cache "{directory}";
Dir::Cache::archives "{directory}/archives";
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
APT::Architecture "amd64";
APT::Architectures {{ "amd64"; }};
APT::Sandbox::User "root";
APT::Update::Error-Mode "any";
Acquire::Languages {{ "none"; }};
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Acquire::IndexTargets::deb::CNF::DefaultEnabled "false";
Acquire::Retries "2";
Acquire::http::Timeout "30";
Acquire::https::Timeout "30";
"#
    )
}

/// Runs a command to its end: what it said, or its own words as the error if it fails.
pub(super) fn said(command: &mut Command) -> Result<String, Error> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.env("LC_ALL", "C").stdin(Stdio::null()).output().map_err(|error| {
        if error.kind() == io::ErrorKind::NotFound {
            Error::NoKernel { reason: format!("there is no {name} on this machine") }
        } else {
            Error::Fetch { command: name.clone(), words: error.to_string() }
        }
    })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    let words = format!("{}\n({})", words.trim_end(), output.status);
    Err(Error::Fetch { command: name, words })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_the_one_with_updates() {
        let line = |address: &str| format!("'{address}/InRelease' file_InRelease 0 \n");
        let other = line("https://other.example/linux/debian/dists/stable");
        let security = line("http://mirror.example/debian-security/dists/bookworm-security");
        let main = line("http://mirror.example/debian/dists/bookworm");
        let updates = line("http://mirror.example/debian/dists/bookworm-updates");
        let all = format!("{other}{security}{main}{updates}");
        assert_eq!(mirror(&all), Some("http://mirror.example/debian"));
        assert_eq!(mirror(&format!("{security}{main}")), Some("http://mirror.example/debian"));
        assert_eq!(mirror(&security), None);
        assert_eq!(security_mirror(&all), Some("http://mirror.example/debian-security"));
        assert_eq!(security_mirror(&main), None);
        assert_eq!(mirror("nonsense\n'/dists\n"), None);
    }
}
