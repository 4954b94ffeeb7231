//! The file system that a kernel starts with: a cpio archive in the format `newc`.

use std::{
    collections::BTreeSet,
    ffi::{OsStr, OsString},
    fs::{self, File},
    io::{self, BufWriter, Write},
    os::unix::{
        ffi::{OsStrExt, OsStringExt},
        fs::FileExt,
    },
    path::{Path, PathBuf},
    process::Command,
};

use crate::error::{Context, Error};

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const END: &str = "TRAILER!!!";

/// An archive as it is written.
pub(crate) struct Initramfs {
    file: BufWriter<File>,
    /// The length up to now.
    length: usize,
    /// The paths in it.
    paths: BTreeSet<PathBuf>,
}

/// What a program file's headers contain.
struct Program {
    /// Where in the file the loaded part ends.
    end: u64,
    /// The dynamic linker, if the program is linked dynamically.
    interpreter: Option<PathBuf>,
}

impl Initramfs {
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        let file = BufWriter::new(File::create(path)?);
        Ok(Self { file, length: 0, paths: BTreeSet::new() })
    }

    /// Adds a program under another path, with its dynamic linker and libraries under their own.
    pub(crate) fn add_program(&mut self, path: &Path, program: &Path) -> Result<(), Error> {
        let file = File::open(program).context("open", program.display())?;
        let parts = Program::read(&file).context("read the parts of", program.display())?;
        // Leaves out the debugging information, which is most of the file and comes last.
        let mut contents = vec![0; parts.end as usize];
        file.read_exact_at(&mut contents, 0).context("read", program.display())?;
        self.add(path, PROGRAM, &contents).context("pack", program.display())?;
        for library in parts.libraries(program)? {
            let contents = fs::read(&library).context("read", library.display())?;
            self.add(&library, PROGRAM, &contents).context("pack", library.display())?;
        }
        Ok(())
    }

    /// Adds a file and its parent directories.
    pub(crate) fn add_file(&mut self, path: &Path, contents: &[u8]) -> io::Result<()> {
        self.add(path, PROGRAM, contents)
    }

    /// Adds a directory and its parents.
    pub(crate) fn add_directory(&mut self, path: &Path) -> io::Result<()> {
        self.add(path, DIRECTORY, &[])
    }

    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.entry(OsStr::new(END), 0, &[])?;
        self.file.flush()
    }

    fn add(&mut self, path: &Path, mode: u32, contents: &[u8]) -> io::Result<()> {
        if path == Path::new("/") || !self.paths.insert(path.to_owned()) {
            return Ok(());
        }
        if let Some(parent) = path.parent() {
            self.add(parent, DIRECTORY, &[])?;
        }
        self.entry(path.strip_prefix("/").unwrap_or(path).as_os_str(), mode, contents)
    }

    /// Writes a header of hexadecimal numbers, the name with a NUL, the contents. Each part starts at a
    /// multiple of four.
    fn entry(&mut self, name: &OsStr, mode: u32, contents: &[u8]) -> io::Result<()> {
        let number = self.paths.len() as u32;
        let (size, name_size) = (contents.len() as u32, name.len() as u32 + 1);
        // inode, mode, user, group, links, time, size, two devices of two numbers, name's size, sum
        let fields = [number, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
        let mut header = b"070701".to_vec();
        header.extend(fields.iter().flat_map(|field| format!("{field:08x}").into_bytes()));
        header.extend(name.as_bytes());
        header.push(0);
        for part in [&header, contents] {
            self.file.write_all(part)?;
            self.length += part.len();
            let padding = self.length.next_multiple_of(4) - self.length;
            self.file.write_all(&[0; 4][..padding])?;
            self.length += padding;
        }
        Ok(())
    }
}

impl Program {
    /// Reads the program headers of a 64-bit ELF file.
    fn read(file: &File) -> io::Result<Self> {
        const PT_LOAD: u64 = 1;
        const PT_INTERP: u64 = 3;
        let number = |at: u64, length: usize| {
            let mut bytes = [0; 8];
            file.read_exact_at(&mut bytes[..length], at)?;
            io::Result::Ok(u64::from_le_bytes(bytes))
        };
        let (headers, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
        let mut program = Self { end: headers + size * count, interpreter: None };
        for header in (0..count).map(|index| headers + index * size) {
            let (kind, offset, length) =
                (number(header, 4)?, number(header + 8, 8)?, number(header + 32, 8)?);
            if kind == PT_LOAD {
                program.end = program.end.max(offset.saturating_add(length));
            } else if kind == PT_INTERP {
                let mut path = vec![0; length.saturating_sub(1).min(4096) as usize];
                file.read_exact_at(&mut path, offset)?;
                program.interpreter = Some(OsString::from_vec(path).into());
            }
        }
        Ok(program)
    }

    /// The dynamic linker, and the libraries that it finds for a program.
    fn libraries(&self, program: &Path) -> Result<Vec<PathBuf>, Error> {
        let Some(linker) = &self.interpreter else { return Ok(Vec::new()) };
        let output = Command::new(linker).arg("--list").arg(program).output();
        let output = output.context("run", linker.display())?;
        let mut paths = vec![linker.clone()];
        paths.extend(listed(&String::from_utf8_lossy(&output.stdout)));
        Ok(paths)
    }
}

/// The paths in a dynamic linker's list: `libc.so.6 => /lib/libc.so.6 (0x7f...)`.
fn listed(list: &str) -> impl Iterator<Item = PathBuf> {
    list.lines().filter_map(|line| {
        let (_, path) = line.split_once(" => ")?;
        let (path, _) = path.rsplit_once(" (")?;
        path.starts_with('/').then(|| path.into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_found_in_the_linkers_list() {
        let list = "\tlinux-vdso.so.1 (0x00007f9f15c46000)\n\
            \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f9f14a1e000)\n\
            \tlibnone.so => not found\n\t/lib64/ld-linux-x86-64.so.2 (0x00007f9f15c48000)\n";
        let paths: Vec<PathBuf> = listed(list).collect();
        assert_eq!(paths, [Path::new("/lib/x86_64-linux-gnu/libc.so.6")]);
        let arm64 = list
            .replace("x86_64-linux-gnu", "aarch64-linux-gnu")
            .replace("/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1");
        let paths: Vec<PathBuf> = listed(&arm64).collect();
        assert_eq!(paths, [Path::new("/lib/aarch64-linux-gnu/libc.so.6")]);
    }

    #[test]
    fn an_archive_has_its_parts_at_multiples_of_four() {
        let path = std::env::temp_dir().join(format!("guest-cpio-test-{}", std::process::id()));
        let mut archive = Initramfs::create(&path).unwrap();
        archive.add_file(Path::new("/a/bc"), b"hello").unwrap();
        archive.add_directory(Path::new("/a")).unwrap();
        archive.finish().unwrap();
        let bytes = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let at = |text: &str| bytes.windows(text.len()).position(|w| w == text.as_bytes()).unwrap();
        assert_eq!(bytes.len() % 4, 0);
        assert_eq!(bytes.windows(6).filter(|window| window == b"070701").count(), 3);
        assert!(at("a\0") < at("a/bc\0") && at("a/bc\0") < at("hello") && at("hello") < at(END));
        assert_eq!(at("hello") % 4, 0);
        // The fields of the file: its mode and size.
        let header = at("a/bc\0") - 110;
        assert_eq!(&bytes[header + 14..header + 22], b"000081ed");
        assert_eq!(&bytes[header + 54..header + 62], b"00000005");
    }

    #[test]
    fn a_program_is_cut_after_what_is_loaded() {
        let path = std::env::current_exe().unwrap();
        let file = File::open(&path).unwrap();
        let program = Program::read(&file).unwrap();
        assert!(program.end > 0 && program.end <= file.metadata().unwrap().len());
        let libraries = program.libraries(&path).unwrap();
        assert_eq!(program.interpreter.is_some(), libraries.iter().any(|l| l.exists()));
    }
}
