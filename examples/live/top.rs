//! The table, live in the terminal: services and real servers, their connections and rates.
//!
//! ```sh
//! cargo run --example top               # in the guest, with some traffic; quit with q
//! cargo run --example top -- --here     # this machine's table
//! cargo run --example top | cat         # without a terminal: some frames as text
//! ```
//!
//! The kernel updates its counters every two seconds, so with a shorter interval the rates
//! jump.

use std::{
    collections::{BTreeMap, VecDeque},
    error::Error,
    io::{self, IsTerminal},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use clap::Parser;
use examples::{Conversation, Scene};
use lvs::{
    RealServer, VirtualService,
    client::{
        Differences, Snapshot, Traffic,
        blocking::Client,
        packet::{DestinationKey, ServiceKey, Weight},
    },
};
use ratatui::{
    Frame, Terminal,
    backend::TestBackend,
    crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers},
    layout::{Constraint, Layout},
    style::{Color, Style, Stylize as _},
    text::Line,
    widgets::{Block, Row, Sparkline, Table},
};

/// Shows services, connections and rates, live.
#[derive(Parser)]
struct Arguments {
    /// Use this machine's kernel and network namespace instead of the guest's
    #[arg(long)]
    here: bool,
    /// Seconds between two frames
    #[arg(long, default_value_t = 2.0, value_parser = seconds)]
    interval: f64,
    /// How many frames to print without a terminal
    #[arg(long, default_value_t = 3)]
    frames: u32,
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| "expected a number of seconds".to_owned())?;
    match (0.1..=3600.0).contains(&seconds) {
        true => Ok(seconds),
        false => Err("expected 0.1 to 3600 seconds".to_owned()),
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    guest::assume_role();
    let arguments = Arguments::parse();
    let (ipvs, _traffic) = if arguments.here {
        (Client::connect()?, None)
    } else {
        eprintln!("Running on {}.", guest::enter_or_exit());
        let (ipvs, traffic) = Busy::start()?;
        (ipvs, Some(traffic))
    };
    let interval = Duration::from_secs_f64(arguments.interval);
    if io::stdout().is_terminal() && io::stdin().is_terminal() {
        // The terminal is restored in any case.
        let mut terminal = ratatui::try_init()?;
        let outcome = watch(&ipvs, interval, &mut terminal);
        ratatui::try_restore()?;
        outcome
    } else {
        print_frames(&ipvs, interval, arguments.frames, &mut io::stdout().lock())
    }
}

/// Draws until somebody presses q.
fn watch(
    ipvs: &Client,
    interval: Duration,
    terminal: &mut ratatui::DefaultTerminal,
) -> Result<(), Box<dyn Error>> {
    let mut top = Top::default();
    loop {
        let next = Instant::now() + interval;
        top.update(ipvs.snapshot()?, Instant::now());
        loop {
            terminal.draw(|frame| top.draw(frame))?;
            if !event::poll(next.saturating_duration_since(Instant::now()))? {
                break;
            }
            if let Event::Key(key) = event::read()? {
                let control = key.modifiers.contains(KeyModifiers::CONTROL);
                match key.code {
                    _ if key.kind == KeyEventKind::Release => {}
                    KeyCode::Char('q') | KeyCode::Esc => return Ok(()),
                    KeyCode::Char('c') if control => return Ok(()),
                    KeyCode::Down | KeyCode::Char('j') => top.scroll(1),
                    KeyCode::Up | KeyCode::Char('k') => top.scroll(-1),
                    KeyCode::PageDown => top.scroll(20),
                    KeyCode::PageUp => top.scroll(-20),
                    _ => {}
                }
            }
        }
    }
}

/// Prints frames as text.
pub(crate) fn print_frames(
    ipvs: &Client,
    interval: Duration,
    frames: u32,
    out: &mut impl io::Write,
) -> Result<(), Box<dyn Error>> {
    let mut top = Top::default();
    for number in 0..frames {
        if number > 0 {
            thread::sleep(interval);
        }
        top.update(ipvs.snapshot()?, Instant::now());
        writeln!(out, "{}", top.text(100, 16)?)?;
    }
    Ok(())
}

/// The state of the display.
#[derive(Default)]
pub(crate) struct Top {
    table: Snapshot,
    taken: Option<Instant>,
    rates: BTreeMap<(ServiceKey, Option<DestinationKey>), Traffic<f64>>,
    /// Connections per second, the newest first.
    history: VecDeque<u64>,
    /// How many rows are above the first visible one.
    scrolled: usize,
}

impl Top {
    /// Updates the display with a new table.
    pub(crate) fn update(&mut self, table: Snapshot, now: Instant) {
        if let Some(taken) = self.taken {
            let elapsed = now.saturating_duration_since(taken);
            let differences = Differences::between(&self.table, &table, elapsed);
            self.rates = differences
                .activity
                .iter()
                .map(|activity| ((activity.service, activity.destination), activity.rates))
                .collect();
            self.history.push_front(self.whole(|rates| rates.connections).round() as u64);
            self.history.truncate(500);
        }
        self.table = table;
        self.taken = Some(now);
    }

    pub(crate) fn scroll(&mut self, rows: isize) {
        let all = self.table.services.values().map(|service| 1 + service.destinations.len()).sum();
        self.scrolled = self.scrolled.saturating_add_signed(rows).min(all);
    }

    /// The sum of a rate over all services.
    fn whole(&self, rate: impl Fn(&Traffic<f64>) -> f64) -> f64 {
        let services = self.rates.iter().filter(|((_, destination), _)| destination.is_none());
        services.map(|(_, rates)| rate(rates)).sum()
    }

    fn draw(&self, frame: &mut Frame<'_>) {
        let [head, spark, table] =
            Layout::vertical([Constraint::Length(1), Constraint::Length(4), Constraint::Min(0)])
                .areas(frame.area());

        let entries = || self.table.services.values().flat_map(|service| &service.destinations);
        let active: u64 = entries().map(|entry| u64::from(entry.active_connections)).sum();
        let inactive: u64 = entries().map(|entry| u64::from(entry.inactive_connections)).sum();
        frame.render_widget(
            Line::from(format!(
                "IPVS: {} services, {} real servers, {active} active and {inactive} inactive \
                 connections, {}B/s in, {}B/s out",
                self.table.services.len(),
                entries().count(),
                short(self.whole(|rates| rates.incoming_bytes)),
                short(self.whole(|rates| rates.outgoing_bytes)),
            ))
            .bold(),
            head,
        );
        let title = format!("connections/s: {}", short(self.whole(|rates| rates.connections)));
        frame.render_widget(
            Sparkline::default()
                .block(Block::bordered().title(title))
                .data(&self.history)
                .direction(ratatui::widgets::RenderDirection::RightToLeft)
                .style(Color::Green),
            spark,
        );

        let header =
            ["service, real server", "", "weight", "active", "inactive", "conn/s", "in/s", "out/s"];
        let widths = [
            Constraint::Fill(1),
            Constraint::Length(10),
            Constraint::Length(7),
            Constraint::Length(8),
            Constraint::Length(8),
            Constraint::Length(8),
            Constraint::Length(8),
            Constraint::Length(8),
        ];
        let rows = self.rows().skip(self.scrolled).take(table.height.into());
        frame.render_widget(Table::new(rows, widths).header(Row::new(header).reversed()), table);
    }

    fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        self.table.services.iter().flat_map(|(key, service)| {
            let settings = &service.entry.service;
            let mut name = key.to_string();
            if self.table.uncertain.contains(key) {
                name += " (changing)";
            }
            let entries = &service.destinations;
            let first = [
                name,
                settings.scheduler.to_string(),
                String::new(),
                entries
                    .iter()
                    .map(|entry| u64::from(entry.active_connections))
                    .sum::<u64>()
                    .to_string(),
                entries
                    .iter()
                    .map(|entry| u64::from(entry.inactive_connections))
                    .sum::<u64>()
                    .to_string(),
            ];
            let first = Row::new(first.into_iter().chain(self.rates(*key, None))).bold();
            let others = entries.iter().map(|entry| {
                let destination = &entry.destination;
                let cells = [
                    format!("  {}", destination.key),
                    destination.forward.to_string(),
                    destination.weight.to_string(),
                    entry.active_connections.to_string(),
                    entry.inactive_connections.to_string(),
                ];
                let rates = self.rates(*key, Some(destination.key));
                // With weight 0 it gets no new connections.
                let leaves = destination.weight == Weight::ZERO;
                let style = if leaves { Color::Yellow.into() } else { Style::new() };
                Row::new(cells.into_iter().chain(rates)).style(style)
            });
            std::iter::once(first).chain(others)
        })
    }

    fn rates(&self, service: ServiceKey, destination: Option<DestinationKey>) -> [String; 3] {
        let rates = self.rates.get(&(service, destination)).copied().unwrap_or_default();
        [rates.connections, rates.incoming_bytes, rates.outgoing_bytes].map(short)
    }

    /// A frame without a terminal.
    pub(crate) fn text(&self, width: u16, height: u16) -> io::Result<String> {
        let Ok(mut terminal) = Terminal::new(TestBackend::new(width, height));
        let Ok(frame) = terminal.draw(|frame| self.draw(frame));
        let cells = frame.buffer.content().chunks(width.into());
        let lines: Vec<String> = cells
            .map(|line| line.iter().map(|cell| cell.symbol()).collect::<String>())
            .map(|line| line.trim_end().to_owned())
            .collect();
        Ok(lines.join("\n").trim_end().to_owned() + "\n")
    }
}

/// A number in a few characters: `0`, `12.5`, `3.4k`, `1.2M`.
fn short(number: f64) -> String {
    let mut scaled = number;
    for unit in ["", "k", "M", "G"] {
        match scaled {
            _ if scaled < 0.05 => return "0".to_owned(),
            _ if scaled < 99.95 => return format!("{scaled:.1}{unit}"),
            _ if scaled < 999.5 => return format!("{scaled:.0}{unit}"),
            _ => scaled /= 1000.0,
        }
    }
    format!("{scaled:.0}T")
}

/// Two pods behind a service, and a client that sends requests all the time. It ends when dropped.
pub(crate) struct Busy {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<(), String>>>,
}

impl Busy {
    pub(crate) fn start() -> Result<(Client, Self), Box<dyn Error>> {
        let over = Arc::new(AtomicBool::new(false));
        let (sender, receiver) = mpsc::channel();
        let told = Arc::clone(&over);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = thread::spawn(move || {
            let traffic = traffic(&sender, &told);
            runtime.block_on(traffic).map_err(|error| error.to_string())
        });
        match receiver.recv() {
            Ok(ipvs) => Ok((ipvs, Self { over, thread: Some(thread) })),
            Err(_) => match thread.join() {
                Ok(Err(error)) => Err(error.into()),
                _ => Err("the traffic ended".into()),
            },
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(Ok(Err(error))) = self.thread.take().map(JoinHandle::join) {
            eprintln!("the traffic ended early: {error}");
        }
    }
}

async fn traffic(ready: &mpsc::Sender<Client>, over: &AtomicBool) -> Result<(), Box<dyn Error>> {
    let scene = Scene::new(2).await?;
    let mut servers = Vec::new();
    for pod in &scene.pods {
        servers.push(pod.serve_tcp(7)?);
    }
    let address = SocketAddr::new(scene.vip, 7);
    let pods = scene.pods.iter().zip([3, 1]);
    let pods = pods.map(|(pod, weight)| RealServer::nat((pod.address(), 7).into()).weight(weight));
    VirtualService::tcp(address)
        .scheduler("wrr")
        .real_servers(pods)
        .build()?
        .apply(&scene.ipvs)
        .await?;
    ready.send(Client::connect_in(scene.host.namespace())?)?;
    let mut open = VecDeque::new();
    while !over.load(Ordering::Relaxed) {
        let (from, source) = (scene.client.namespace(), scene.client.address());
        let mut conversation = Conversation::open(from, source, address).await?;
        conversation.pod().await?;
        open.push_back(conversation);
        if open.len() > 8 {
            open.pop_front();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
