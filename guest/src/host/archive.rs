//! Checks and unpacks files from a mirror of Debian without Debian's programs.

use std::{
    fs::File,
    io::{self, Error, ErrorKind, Read, Seek, SeekFrom},
    path::Path,
};

use lzma_rust2::XzReader;
use sha2::{Digest, Sha256};
use tar::Archive;

use crate::host::pinned::Package;

/// The first bytes of a package, an `ar` archive.
const MAGIC: &[u8] = b"!<arch>\n";
/// The part of a package that holds its files.
const FILES: &str = "data.tar.xz";

/// A file's SHA-256 in hexadecimal digits. Leaves the file at its start.
pub(super) fn sum(file: &mut File) -> io::Result<String> {
    let mut digest = Sha256::new();
    let mut piece = vec![0; 1 << 16];
    file.rewind()?;
    loop {
        match file.read(&mut piece)? {
            0 => break,
            length => digest.update(&piece[..length]),
        }
    }
    file.rewind()?;
    Ok(digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Unpacks a package below a directory, and nowhere else.
pub(super) fn unpack(package: &mut File, directory: &Path) -> io::Result<()> {
    let (start, length) = files(package)?;
    package.seek(SeekFrom::Start(start))?;
    let files = XzReader::new(io::BufReader::new(package.take(length)), true);
    let mut archive = Archive::new(files);
    archive.set_preserve_mtime(false);
    archive.unpack(directory)
}

/// Unpacks a text that xz packed.
pub(super) fn unpack_text(file: File) -> io::Result<String> {
    let mut text = String::new();
    XzReader::new(io::BufReader::new(file), true).read_to_string(&mut text)?;
    Ok(text)
}

/// The offset and length of a package's files. Each part has a header of 60 bytes, with the part's name, and
/// its length as a decimal number at 48; parts start at even bytes.
fn files(package: &mut File) -> io::Result<(u64, u64)> {
    let invalid = || Error::new(ErrorKind::InvalidData, "not a package with a data.tar.xz");
    let mut magic = [0; MAGIC.len()];
    package.rewind()?;
    package.read_exact(&mut magic)?;
    if magic != MAGIC {
        return Err(invalid());
    }
    let mut at = MAGIC.len() as u64;
    loop {
        let mut header = [0; 60];
        package.seek(SeekFrom::Start(at))?;
        package.read_exact(&mut header).map_err(|_| invalid())?;
        let field = |range| std::str::from_utf8(&header[range]).unwrap_or_default().trim();
        let length: u64 = field(48..58).parse().map_err(|_| invalid())?;
        if field(0..16).trim_end_matches('/') == FILES {
            return Ok((at + 60, length));
        }
        at = at.checked_add(60 + length.next_multiple_of(2)).ok_or_else(invalid)?;
    }
}

/// The sum of a file in a suite's signed list: ` SUM SIZE NAME` below `SHA256:`.
pub(super) fn listed_sum<'a>(release: &'a str, name: &str) -> Option<&'a str> {
    let sums = release.lines().skip_while(|line| *line != "SHA256:").skip(1);
    sums.take_while(|line| line.starts_with(' ')).find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let sum = words.next()?;
        (words.nth(1) == Some(name)).then_some(sum)
    })
}

/// Whether a signed list is the list of a suite. A suite has two names.
pub(super) fn is_of(release: &str, suite: &str) -> bool {
    let mut names = release.lines().filter_map(|line| line.split_once(": "));
    names.any(|(field, value)| ["Suite", "Codename"].contains(&field) && value == suite)
}

/// A package, as a suite's list describes it.
pub(super) fn listed(packages: &str, name: &str) -> Option<Package> {
    let first = format!("Package: {name}");
    let about = packages.split("\n\n").find(|text| text.lines().next() == Some(&first))?;
    let field = |name: &str| {
        about
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": ").map(str::to_owned))
    };
    let path = field("Filename")?;
    // It becomes a path on this machine.
    if path.starts_with('/') || path.split('/').any(|part| part.is_empty() || part == "..") {
        return None;
    }
    Some(Package { path, size: field("Size")?.parse().ok()?, sum: field("SHA256")? })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn lists_are_read() {
        let release = "Suite: testing\nCodename: forky\nMD5Sum:\n 00 1 main/Packages.xz\nSHA256:\n \
                       aa 12 main/Packages\n bb  3 main/Packages.xz\nAcquire-By-Hash: yes\n cc 4 x\n";
        assert_eq!(listed_sum(release, "main/Packages.xz"), Some("bb"));
        assert_eq!(listed_sum(release, "x"), None);
        assert!(is_of(release, "testing") && is_of(release, "forky") && !is_of(release, "sid"));
        let list = |path: &str| {
            format!(
                "Package: ab\nSize: 1\n\nPackage: a\nFilename: {path}\nSize: 12\nSHA256: aa\n\n"
            )
        };
        let package = listed(&list("pool/a_1_amd64.deb"), "a").unwrap();
        assert_eq!((package.name(), package.size, package.sum.as_str()), ("a", 12, "aa"));
        for path in ["/etc/passwd", "pool/../../x", "pool//x", ""] {
            assert_eq!(listed(&list(path), "a"), None, "{path}");
        }
        assert_eq!(listed(&list("a"), "ab"), None);
    }

    #[test]
    fn what_is_no_package_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("package");
        let part = |name: &str, length: &str| format!("{name:<16}{:<32}{length:<10}`\n", "");
        for bytes in [
            String::new(),
            "!<arch>\n".to_owned(),
            "<html>no such file</html>".to_owned(),
            format!("!<arch>\n{}x", part("data.tar.xz", "many")),
            format!("!<arch>\n{}", part("debian-binary", "18446744073709551615")),
            format!("!<arch>\n{}no xz", part("data.tar.xz", "5")),
        ] {
            fs::write(&path, &bytes).unwrap();
            let mut file = File::open(&path).unwrap();
            assert!(unpack(&mut file, &directory.path().join("tree")).is_err(), "{bytes}");
        }
        fs::write(&path, "abc").unwrap();
        let mut file = File::open(&path).unwrap();
        let known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sum(&mut file).unwrap(), known);
    }
}
