//! What this process needs from its kernel: IPVS, or any modules.

use std::{io, path::Path};

use crate::{
    error::{Context, Error},
    inside::{self, init},
    ipvs,
    modules::Modules,
};

/// Loads all of these modules; if IPVS is one of them, checks that this process may
/// use it.
pub(crate) fn probe(modules: &[String]) -> Result<(), Error> {
    modules
        .iter()
        .try_for_each(|module| if module == "ip_vs" { ipvs::probe() } else { load(module) })
}

/// Loads a module. One that is built in or loaded needs no file.
fn load(name: &str) -> Result<(), Error> {
    if Path::new("/sys/module").join(name.replace('-', "_")).exists() {
        return Ok(());
    }
    let release = crate::release()?;
    let directory = if init::is_guest() {
        inside::MODULES.into()
    } else {
        Path::new("/lib/modules").join(&release)
    };
    match Modules::new(directory).load(name) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(Error::NoModule { module: name.to_owned(), release })
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Err(Error::NotPermitted { step: "load modules", source: error })
        }
        Err(error) => Err(error).context("load the module", name),
    }
}
