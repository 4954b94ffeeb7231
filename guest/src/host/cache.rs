//! The directory that keeps unpacked packages.

use std::{
    fs::{self, DirBuilder, File},
    io::{self, ErrorKind},
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process,
};

use nix::{
    fcntl::{Flock, FlockArg},
    unistd::{self, AccessFlags, Uid},
};

use crate::{
    error::{Context, Error},
    host::fetch::TREE,
    options::Options,
};

/// Prefix of the directory in which a package is fetched and unpacked.
const PARTIAL: &str = "partial-";

/// Finds something in a directory of the cache. Fills the directory first if it does not exist.
pub(super) fn kept<T>(
    cache: &Path,
    name: &str,
    look: impl Fn(&Path) -> Option<T>,
    fill: impl FnOnce(&Path) -> Result<(), Error>,
) -> Result<T, Error> {
    let unpacked = cache.join(name);
    if let Some(found) = look(&unpacked) {
        return Ok(found);
    }
    let lock_path = cache.join("lock");
    let refused = |error: io::Error| refused(cache, error.to_string());
    let lock = File::create(&lock_path).map_err(refused)?;
    let _lock = match Flock::lock(lock, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => lock,
        Err((lock, _)) => {
            eprintln!("guest: waiting for another process that is fetching a kernel");
            Flock::lock(lock, FlockArg::LockExclusive)
                .map_err(|(_, error)| error)
                .context("lock", lock_path.display())?
        }
    };
    if let Some(found) = look(&unpacked) {
        return Ok(found);
    }
    // This process has the lock, so these directories are left over from a killed run. Its apt may still
    // be running, so do not use the directory's name again.
    for entry in fs::read_dir(cache).context("read", cache.display())?.flatten() {
        if entry.file_name().as_encoded_bytes().starts_with(PARTIAL.as_bytes()) {
            remove(&entry.path())?;
        }
    }
    let partial = cache.join(format!("{PARTIAL}{}", process::id()));
    let result = fill(&partial).and_then(|()| {
        let tree = partial.join(TREE);
        remove(&unpacked)?;
        fs::rename(&tree, &unpacked).context("rename", tree.display())
    });
    let removed = remove(&partial);
    match result {
        Err(Error::System { source, .. })
            if matches!(source.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) =>
        {
            return Err(refused(source));
        }
        result => result.and(removed)?,
    }
    look(&unpacked)
        .ok_or_else(|| io::Error::from(ErrorKind::NotFound))
        .context("find the kernel in", unpacked.display())
}

/// The directory that keeps packages: the user's choice, or the first that this user may use.
pub(super) fn directory(options: &Options) -> Result<PathBuf, Error> {
    if let Some(path) = &options.cache {
        let made = fs::create_dir_all(path).and_then(|()| std::path::absolute(path));
        return made.map_err(|error| refused(path, error.to_string()));
    }
    let variable =
        |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let places = [variable("XDG_CACHE_HOME"), variable("HOME").map(|home| home.join(".cache"))];
    let own = places.into_iter().flatten().map(|place| place.join("lvs-guest")).find(|path| {
        // With sudo, HOME can be another user's: root leaves nothing there.
        let nearest = path.ancestors().find(|path| path.exists());
        nearest.is_some_and(is_own)
            && fs::create_dir_all(path).is_ok()
            && unistd::access(path, AccessFlags::W_OK).is_ok()
    });
    own.map_or_else(|| temporary_cache(Path::new("/tmp")), Ok)
}

/// A directory in one that everybody may write to. Programs run from it, so it must not be made by
/// somebody else.
fn temporary_cache(base: &Path) -> Result<PathBuf, Error> {
    let path = base.join(format!("lvs-guest-cache-{}", Uid::effective()));
    let refused = |reason: String| Err(refused(&path, reason));
    match DirBuilder::new().mode(0o700).create(&path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => refused(error.to_string()),
        _ => match fs::symlink_metadata(&path) {
            Err(error) => refused(error.to_string()),
            Ok(metadata) if !metadata.is_dir() => refused("it is not a directory".to_owned()),
            Ok(metadata) if metadata.uid() != Uid::effective().as_raw() => {
                refused("it belongs to another user".to_owned())
            }
            Ok(metadata) if metadata.permissions().mode() & 0o077 != 0 => {
                refused("other users have rights to it".to_owned())
            }
            Ok(_) => Ok(path),
        },
    }
}

fn refused(path: &Path, reason: String) -> Error {
    Error::Cache { path: path.to_owned(), reason }
}

fn is_own(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.uid() == Uid::effective().as_raw())
}

/// This machine's distribution and release, such as `debian-12`: a kernel fetched on one may not run on
/// another that shares the home directory.
pub(super) fn system_name() -> String {
    let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let value = |key| {
        text.lines()
            .filter_map(|line| line.split_once('='))
            .find_map(|(name, value)| (name == key).then_some(value.trim_matches('"')))
            .unwrap_or("unknown")
    };
    format!("{}-{}", value("ID"), value("VERSION_ID")).replace('/', "-")
}

pub(super) fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).context("remove", path.display())
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_cache_that_others_may_have_made_is_refused() {
        let base = std::env::temp_dir().join(format!("guest-cache-test-{}", process::id()));
        fs::create_dir_all(&base).unwrap();
        let path = temporary_cache(&base).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        assert_eq!(temporary_cache(&base).unwrap(), path);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(matches!(temporary_cache(&base), Err(Error::Cache { .. })));
        fs::remove_dir(&path).unwrap();
        symlink("/", &path).unwrap();
        assert!(matches!(temporary_cache(&base), Err(Error::Cache { .. })));
        fs::remove_dir_all(&base).unwrap();
    }
}
