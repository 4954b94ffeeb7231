//! Fetches packages from a mirror of Debian that the user names, on machines without apt: Fedora, Alpine,
//! Arch and others.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use crate::{
    error::{Context, Error},
    host::{
        apt::{self, KEYRING},
        archive,
        fetch::{Printed, TREE, disk_usage, free_space, listen},
        find_program,
        pinned::{self, Package},
        progress::{Progress, megabytes},
        supervise::Signals,
    },
    options::{Kernel, Options},
};

/// The path of a suite's list of packages, below the suite's directory.
const LIST: &str = "main/binary-amd64/Packages.xz";
/// Unpacked size of a package, at most, as a multiple of its packed size.
const UNPACKED: u64 = 6;

/// A mirror, and what is fetched from it.
pub(super) struct Mirror<'a> {
    place: Place,
    keyring: PathBuf,
    directory: &'a Path,
    signals: Signals,
    progress: Progress,
    downloaded: u64,
    started: Instant,
}

/// Where a mirror is.
enum Place {
    Directory(PathBuf),
    /// An address, without a slash at its end, and the program that fetches.
    Address(String, PathBuf),
}

impl<'a> Mirror<'a> {
    /// The mirror that the user names, and the directory to fetch packages into.
    pub(super) fn new(name: &str, directory: &'a Path, options: &Options) -> Result<Self, Error> {
        let place = match name.strip_prefix("file://") {
            Some(path) => Place::Directory(path.into()),
            None if name.contains("://") => {
                let program = find_program("curl").or_else(|| find_program("wget"));
                let program = program.ok_or_else(|| Error::NoKernel {
                    reason: format!(
                        "there is no curl and no wget on this machine to fetch from {name} \
                         (LVS_GUEST_MIRROR, which can name a directory too)"
                    ),
                })?;
                Place::Address(name.trim_end_matches('/').to_owned(), program)
            }
            None => Place::Directory(std::path::absolute(name).context("find", name)?),
        };
        let tree = directory.join(TREE);
        fs::create_dir_all(&tree).context("make the directory", tree.display())?;
        Ok(Self {
            place,
            keyring: options.keyring.clone().unwrap_or_else(|| KEYRING.into()),
            directory,
            signals: Signals::block()?,
            progress: Progress::new(),
            downloaded: 0,
            started: Instant::now(),
        })
    }

    /// Fetches and unpacks a kernel and its library. Returns the directory.
    pub(super) fn fetch(mut self, kernel: Kernel) -> Result<PathBuf, Error> {
        let Some((suite, packages)) = pinned::packages(kernel) else {
            let reason = format!("only apt can fetch {kernel}, and this machine has no apt");
            return Err(Error::NoKernel { reason });
        };
        let cache = self.directory.parent().unwrap_or(self.directory);
        let (mirror, place) = (self.name(), cache.display());
        eprintln!("guest: fetching a kernel with IPVS from {mirror}, once, into {place}");
        let needed = packages.iter().map(|package| package.size).sum::<u64>() * UNPACKED;
        let free = free_space(self.directory);
        if free < needed {
            let (needed, free) = (megabytes(needed), megabytes(free));
            let reason = format!("it needs up to {needed} MB there, and {free} MB are free");
            return Err(Error::Cache { path: cache.to_owned(), reason });
        }
        let tree = self.directory.join(TREE);
        let mut list = None;
        let mut checked = Vec::new();
        for package in packages {
            checked.push(match self.package(&package)? {
                Some(file) => (package, file),
                None => self.successor(&package, suite, &mut list)?,
            });
        }
        for (package, mut file) in checked {
            self.progress.say(Instant::now(), "unpacking");
            archive::unpack(&mut file, &tree).context("unpack", package.file_name())?;
            let path = self.directory.join(package.file_name());
            if matches!(self.place, Place::Address(..)) {
                fs::remove_file(&path).context("remove", path.display())?;
            }
        }
        self.progress.clear();
        eprintln!(
            "guest: fetched in {:.1} s: {} MB downloaded, {} MB on disk",
            self.started.elapsed().as_secs_f64(),
            megabytes(self.downloaded),
            megabytes(disk_usage(&tree)),
        );
        Ok(tree)
    }

    fn name(&self) -> String {
        match &self.place {
            Place::Directory(path) => path.display().to_string(),
            Place::Address(address, _) => address.clone(),
        }
    }

    /// A package with the right checksum; `None` if the mirror has no such file.
    fn package(&mut self, package: &Package) -> Result<Option<File>, Error> {
        self.checked(&package.path, &package.sum, package.size)
    }

    /// A file of the mirror, if its checksum is right.
    fn checked(&mut self, path: &str, sum: &str, size: u64) -> Result<Option<File>, Error> {
        let Some(mut file) = self.get(path, size)? else { return Ok(None) };
        let found = archive::sum(&mut file).context("read", path)?;
        if found != sum {
            let reason = format!(
                "its SHA-256 is {found}, but must be {sum}: the file was changed or is incomplete. \
                 Nothing of it was used. Set LVS_GUEST_MIRROR to another mirror"
            );
            return Err(self.refused(path, reason));
        }
        Ok(Some(file))
    }

    /// The package that replaces one that the mirror no longer has, from the suite's signed lists.
    fn successor(
        &mut self,
        package: &Package,
        suite: &str,
        list: &mut Option<String>,
    ) -> Result<(Package, File), Error> {
        let packages = match list {
            Some(packages) => packages,
            None => list.insert(self.list(package, suite)?),
        };
        let Some(next) = archive::listed(packages, package.name()) else {
            let reason = format!("the suite {suite} no longer has the package {}", package.name());
            return Err(self.refused(&package.path, reason));
        };
        self.progress.clear();
        eprintln!("guest: {} is gone, using {}", package.file_name(), next.file_name());
        match self.package(&next)? {
            Some(file) => Ok((next, file)),
            None => {
                let reason =
                    format!("the list of {suite} names it, but the mirror has no such file");
                Err(self.refused(&next.path, reason))
            }
        }
    }

    /// A suite's list of packages, with its signature checked.
    fn list(&mut self, package: &Package, suite: &str) -> Result<String, Error> {
        let gone = |why: &str| {
            format!("the mirror has no such file, and {why}. Use a mirror that keeps old files")
        };
        let keyring = self.keyring.clone();
        let Some(gpgv) = find_program("gpgv").filter(|_| keyring.is_file()) else {
            let keyring = keyring.display();
            let why = gone(&format!(
                "finding a newer one needs gpgv and the keys of Debian's archive in {keyring} \
                 (package debian-archive-keyring; or set LVS_GUEST_KEYRING to another file)"
            ));
            return Err(self.refused(&package.path, why));
        };
        let path = format!("dists/{suite}/InRelease");
        if self.get(&path, 0)?.is_none() {
            let why = gone("it has no suite of that name either");
            return Err(self.refused(&path, why));
        }
        let (signed, release) = (self.local(&path), self.directory.join("Release"));
        let mut command = Command::new(gpgv);
        command.arg("--keyring").arg(keyring).arg("--output").arg(&release).arg(signed);
        let printed = self.run(&mut command)?;
        if !printed.succeeded {
            let reason = format!("its signature is not valid: gpgv printed: {}", printed.errors);
            return Err(self.refused(&path, reason));
        }
        let release = fs::read_to_string(&release).context("read", release.display())?;
        let sum = archive::listed_sum(&release, LIST).filter(|_| archive::is_of(&release, suite));
        let Some(sum) = sum else {
            return Err(self.refused(&path, format!("it is not the list of {suite}")));
        };
        let path = format!("dists/{suite}/{LIST}");
        match self.checked(&path, sum, 0)? {
            Some(file) => archive::unpack_text(file).context("unpack", path),
            None => Err(self.refused(&path, gone("its signed list names this file"))),
        }
    }

    fn refused(&self, path: &str, reason: String) -> Error {
        Error::Package { path: format!("{}/{path}", self.name()), reason }
    }

    /// Where a file of the mirror is on this machine, once fetched.
    fn local(&self, path: &str) -> PathBuf {
        match &self.place {
            Place::Directory(directory) => directory.join(path),
            Place::Address(..) => self.directory.join(path.rsplit('/').next().unwrap_or_default()),
        }
    }

    /// A file of the mirror, with its size in bytes or 0 if unknown; `None` if the mirror does not have it.
    fn get(&mut self, path: &str, size: u64) -> Result<Option<File>, Error> {
        let local = self.local(path);
        if let Place::Address(address, program) = &self.place {
            let address = format!("{address}/{path}");
            let mut command = download(program, &local, &address);
            let printed = self.run_with_progress(&mut command, &local, size)?;
            self.downloaded += fs::metadata(&local).map_or(0, |metadata| metadata.len());
            if !printed.succeeded {
                return if printed.errors.contains("404") {
                    Ok(None)
                } else {
                    Err(self.failed(printed))
                };
            }
        }
        match File::open(&local) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => match &self.place {
                Place::Directory(directory) if !directory.is_dir() => {
                    Err(error).context("find the directory LVS_GUEST_MIRROR", directory.display())
                }
                _ => Ok(None),
            },
            Err(error) => Err(error).context("open", local.display()),
        }
    }

    fn failed(&mut self, printed: Printed) -> Error {
        self.progress.clear();
        let Place::Address(address, program) = &self.place else {
            return Error::NoKernel { reason: printed.errors };
        };
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let proxy = proxy(address);
        let place = self.directory.parent().unwrap_or(self.directory);
        let source = format!("{address} (LVS_GUEST_MIRROR)");
        let remedy = apt::remedy(&name, &printed.errors, proxy.as_deref(), place, &source);
        Error::Fetch { command: name, words: printed.errors, remedy }
    }

    fn run(&mut self, command: &mut Command) -> Result<Printed, Error> {
        listen(command, self.directory, &mut self.signals, |_| {})
    }

    fn run_with_progress(
        &mut self,
        command: &mut Command,
        file: &Path,
        size: u64,
    ) -> Result<Printed, Error> {
        let progress = &mut self.progress;
        let mut show = || {
            let done = megabytes(fs::metadata(file).map_or(0, |metadata| metadata.len()));
            let of = if size > 0 { format!(" of {}", megabytes(size)) } else { String::new() };
            progress.say(Instant::now(), &format!("downloading {done}{of} MB"));
        };
        listen(command, self.directory, &mut self.signals, |_| show())
    }
}

/// The command that fetches a file. Both programs use the proxies in their usual variables.
fn download(program: &Path, file: &Path, address: &str) -> Command {
    let mut command = Command::new(program);
    let real = fs::canonicalize(program).unwrap_or_default();
    if program.ends_with("curl") {
        // Gives up a server that sends nothing.
        command.args(["-fsSL", "--connect-timeout", "30", "--retry", "2"]);
        command.args(["--speed-limit", "1", "--speed-time", "60", "-o"]);
    } else if real.ends_with("busybox") {
        command.arg("-O");
    } else {
        command.args(["-nv", "-T", "60", "-t", "3", "-O"]);
    }
    command.arg(file).arg(address);
    command
}

/// The proxy for an address, from the usual variables.
fn proxy(address: &str) -> Option<String> {
    let (scheme, _) = address.split_once("://")?;
    let names = [format!("{scheme}_proxy"), "all_proxy".to_owned(), "HTTPS_PROXY".to_owned()];
    let mut values = names.iter().filter(|name| *name != "HTTPS_PROXY" || scheme == "https");
    values.find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
}
