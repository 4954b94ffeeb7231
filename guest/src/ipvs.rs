use std::io;

use crate::{
    error::{Context, Error},
    netlink,
};

/// `IPVS_GENL_NAME`.
const FAMILY: &str = "IPVS";
/// `IPVS_CMD_GET_INFO`, the cheapest command. Every command needs the privilege.
const GET_INFO: u8 = 15;

/// Whether the kernel that runs this process has IPVS (asking loads its module) and lets this
/// process use it.
pub(crate) fn probe() -> Result<(), Error> {
    let family = match netlink::family_id(FAMILY) {
        Ok(family) => family,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Error::NoIpvs),
        Err(error) => return Err(error).context("look up the generic netlink family", FAMILY),
    };
    match netlink::generic(family, GET_INFO) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Err(Error::NotPermitted { step: "use IPVS", source: error })
        }
        Err(error) => Err(error).context("ask for the version of", FAMILY),
    }
}
