//! Which modules the kernel has loaded.

use std::{cell::OnceCell, fs};

use ipvs_packet::Request;

use crate::{
    Error, ErrorKind,
    error::{errno, missing_scheduler},
};

const LOADED: &str = "/proc/modules";

/// The modules that are loaded at the time when this is first asked.
#[derive(Default)]
pub(crate) struct LoadedModules(OnceCell<String>);

impl LoadedModules {
    /// The failure of a request, said more exactly where that takes a look at the modules: whether a
    /// service's scheduler or its persistence engine is missing. The kernel looks for the scheduler
    /// first, and its module stays when the engine is then not found.
    pub(crate) fn explain(&self, request: &Request, error: Error) -> Error {
        let (Request::NewService(service) | Request::SetService(service)) = request else {
            return error;
        };
        let Some(engine) = service.engine.filter(|_| error.errno() == Some(errno::NOENT)) else {
            return error;
        };
        let scheduler = service.scheduler;
        if self.contain(&format!("ip_vs_{scheduler}")) {
            let text = format!("persistence engine module ip_vs_pe_{engine} is not available");
            error.with_meaning(ErrorKind::EngineNotFound, &text)
        } else if self.contain(&format!("ip_vs_pe_{engine}")) {
            error.with_meaning(ErrorKind::SchedulerNotFound, &missing_scheduler(scheduler))
        } else {
            error
        }
    }

    /// Whether a module of this name is loaded. One that is built into the kernel is not.
    fn contain(&self, name: &str) -> bool {
        // Where /proc is not mounted, none is known to be loaded.
        let modules = self.0.get_or_init(|| fs::read_to_string(LOADED).unwrap_or_default());
        modules.lines().any(|line| line.split(' ').next() == Some(name))
    }
}

#[cfg(test)]
mod tests {
    use ipvs_packet::{EngineName, Service, ServiceKey};

    use super::*;

    fn explained(loaded: &str, errno: i32) -> Error {
        let mut service = Service::new(ServiceKey::udp(([10, 0, 0, 185], 5060).into()).unwrap());
        service.engine = Some(EngineName::SIP);
        let request = Request::NewService(service);
        let modules = LoadedModules(OnceCell::from(loaded.to_owned()));
        modules.explain(&request, Error::kernel(&request, errno, None))
    }

    #[test]
    fn what_is_missing_is_named() {
        let wlc = "ip_vs_wlc 16384 0 - Live 0x0\nip_vs 1 1 ip_vs_wlc, Live 0x0\n";
        let error = explained(wlc, errno::NOENT);
        assert_eq!(error.kind(), ErrorKind::EngineNotFound, "{error}");
        let error = explained("ip_vs_pe_sip 1 0 - Live 0x0\n", errno::NOENT);
        assert_eq!(error.kind(), ErrorKind::SchedulerNotFound, "{error}");
        assert!(error.to_string().contains("ip_vs_wlc is not available"), "{error}");
        let error = explained("", errno::NOENT).to_string();
        assert!(error.contains("ip_vs_wlc or persistence engine module ip_vs_pe_sip"), "{error}");
    }

    #[test]
    fn other_errors_stay_what_they_are() {
        for (errno, kind) in [
            (errno::EXIST, ErrorKind::AlreadyExists),
            (errno::PERM, ErrorKind::PermissionDenied),
            (errno::INVAL, ErrorKind::Invalid),
        ] {
            assert_eq!(explained("ip_vs_wlc 1 0 - Live 0x0\n", errno).kind(), kind);
        }
    }
}
