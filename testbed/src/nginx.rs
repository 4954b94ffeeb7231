use std::{
    fs,
    net::{IpAddr, SocketAddr, TcpListener},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::{
    client::connect,
    docker::Container,
    error::Error,
    process::{Process, program},
    server::page,
};

/// How long nginx may take to start.
const START: Duration = Duration::from_secs(10);

/// A real nginx in a container. Dropping it kills it and removes its files.
#[derive(Debug)]
pub struct Nginx {
    process: Process,
    _files: TempDir,
}

impl Nginx {
    pub(crate) async fn start(container: &Container, port: u16) -> Result<Self, Error> {
        let program = program("nginx", "nginx-light")?;
        let step = format!("nginx in {}", container.name());
        let failed = |error: std::io::Error| Error::new(&step, error);
        let address = SocketAddr::new(container.address(), port);
        // Checked here, because nginx retries for seconds, and another server would answer for it.
        container.namespace().run(|| TcpListener::bind(address))?.map_err(failed)?;
        let files = tempfile::Builder::new().prefix("nginx-").tempdir().map_err(failed)?;
        let dir = files.path();
        fs::write(dir.join("index.html"), page(container.name())).map_err(failed)?;
        let config = dir.join("nginx.conf");
        fs::write(&config, configuration(dir, container.address(), port)).map_err(failed)?;
        let log = dir.join("error.log");
        let errors = fs::File::create(&log).map_err(failed)?;
        let mut command = Command::new(program);
        command.arg("-c").arg(&config).arg("-p").arg(dir).arg("-e").arg(&log);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors);
        let mut process = Process::start(container.namespace(), &mut command)?;

        let end = Instant::now() + START;
        loop {
            let ended = process.has_ended();
            let error = match connect(container.namespace(), address, START).await {
                Ok(_) => return Ok(Self { process, _files: files }),
                Err(error) => error.to_string(),
            };
            if ended || Instant::now() > end {
                let said = fs::read_to_string(&log).unwrap_or_default();
                return Err(Error::new(step, format!("{error}\n{said}")));
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Its PID: the container's namespace is /proc/PID/ns/net.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }
}

/// One process, all files in one directory, independent of the machine's own nginx.
fn configuration(dir: &Path, address: IpAddr, port: u16) -> String {
    let listen = match address {
        IpAddr::V4(_) => port.to_string(),
        IpAddr::V6(_) => format!("[::]:{port}"),
    };
    let dir = dir.display();
    format!(
        "daemon off;
master_process off;
pid \"{dir}/pid\";
events {{}}
http {{
    access_log off;
    default_type text/html;
    client_body_temp_path \"{dir}/body\";
    proxy_temp_path \"{dir}/proxy\";
    fastcgi_temp_path \"{dir}/fastcgi\";
    uwsgi_temp_path \"{dir}/uwsgi\";
    scgi_temp_path \"{dir}/scgi\";
    server {{
        listen {listen};
        root \"{dir}\";
    }}
}}
"
    )
}
