//! Metrics as text, and the small HTTP server that gives them to Prometheus.
//!
//! Nothing is kept between scrapes: the numbers live elsewhere and are written down when somebody
//! asks, so that a scrape is all that metrics cost.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Names and values that tell the samples of a metric apart.
pub type Labels = Vec<(&'static str, String)>;

/// One scrape's metrics. Every name gets the prefix `natwerk_`, every counter the suffix `_total`.
pub struct Metrics {
    registry: Registry,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// No metrics yet.
    #[must_use]
    pub fn new() -> Self {
        Self { registry: Registry::with_prefix("natwerk") }
    }

    /// Adds a counter with its samples. Like everywhere here, a full stop is added to `help`.
    pub fn counter(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels, u64)>,
    ) {
        let family = Family::<Labels, Counter>::default();
        for (labels, value) in samples {
            family.get_or_create(&escaped(labels)).inc_by(value);
        }
        self.registry.register(name, help, family);
    }

    /// Adds a gauge with its samples.
    pub fn gauge(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels, u64)>,
    ) {
        let family = Family::<Labels, Gauge>::default();
        for (labels, value) in samples {
            family.get_or_create(&escaped(labels)).set(value.try_into().unwrap_or(i64::MAX));
        }
        self.registry.register(name, help, family);
    }

    /// Adds a gauge that is one number.
    pub fn number(&mut self, name: &str, help: &str, value: u64) {
        let gauge = Gauge::<i64>::default();
        gauge.set(value.try_into().unwrap_or(i64::MAX));
        self.registry.register(name, help, gauge);
    }

    /// Adds a counter that is one number.
    pub fn count(&mut self, name: &str, help: &str, value: u64) {
        let counter = Counter::<u64>::default();
        counter.inc_by(value);
        self.registry.register(name, help, counter);
    }

    /// Adds a gauge whose samples have fractions.
    pub fn ratio(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels, f64)>,
    ) {
        let family = Family::<Labels, Gauge<f64, AtomicU64>>::default();
        for (labels, value) in samples {
            family.get_or_create(&escaped(labels)).set(value);
        }
        self.registry.register(name, help, family);
    }

    /// Everything as OpenMetrics text, which Prometheus reads too.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

/// Label values as they stand between quotes; the encoder does not escape them.
fn escaped(mut labels: Labels) -> Labels {
    for (_, value) in &mut labels {
        if value.contains(['\\', '"', '\n']) {
            *value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        }
    }
    labels
}

/// Why metrics are not served.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot serve metrics at {address}: {error} — choose another metrics_listen, or leave it out"
)]
pub struct ServeError {
    /// The address.
    pub address: SocketAddr,
    /// What the system said.
    pub error: io::Error,
}

/// The HTTP server. Dropping it ends it.
pub struct Server {
    address: SocketAddr,
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves what `metrics` returns at `address`, under `/metrics`, from now on.
    ///
    /// # Errors
    /// When the address is taken or not ours.
    pub fn start<F>(address: SocketAddr, metrics: F) -> Result<Self, ServeError>
    where
        F: Fn() -> Metrics + Send + 'static,
    {
        let refused = |error| ServeError { address, error };
        let listener = TcpListener::bind(address).map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        let stopping = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&stopping);
        let serve_all = move || {
            for client in listener.incoming() {
                if stop.load(Ordering::Acquire) {
                    return;
                }
                match client {
                    // A client that went away needs no answer.
                    Ok(client) => drop(serve(&client, &metrics)),
                    Err(_) => thread::sleep(Duration::from_millis(100)),
                }
            }
        };
        let thread = thread::Builder::new().name("metrics".to_owned()).spawn(serve_all);
        let thread = thread.map_err(|error| ServeError { address, error })?;
        Ok(Self { address, stopping, thread: Some(thread) })
    }

    /// Where it listens: the port is a real one, even if zero was asked for.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        // The thread sleeps in `accept`: this wakes it.
        let woken = TcpStream::connect_timeout(&self.address, CLIENT_PATIENCE).is_ok();
        if let Some(thread) = self.thread.take().filter(|_| woken) {
            let _ = thread.join();
        }
    }
}

/// How long a client may take to ask, or to read. There is one at a time, so it is short.
const CLIENT_PATIENCE: Duration = Duration::from_secs(2);

/// The longest request, headers included, in bytes.
const REQUEST_MAX: u64 = 16 * 1024;

const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

fn serve(client: &TcpStream, metrics: &impl Fn() -> Metrics) -> io::Result<()> {
    client.set_read_timeout(Some(CLIENT_PATIENCE))?;
    client.set_write_timeout(Some(CLIENT_PATIENCE))?;
    let mut lines = BufReader::new(client).take(REQUEST_MAX).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    for header in lines {
        if header?.is_empty() {
            break;
        }
    }
    let mut words = request.split_whitespace();
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let path = target.split('?').next().unwrap_or_default();
    match (method, path) {
        ("GET", "/metrics") => reply(client, "200 OK", CONTENT_TYPE, &metrics().text()),
        ("HEAD", "/metrics") => reply(client, "200 OK", CONTENT_TYPE, ""),
        ("GET" | "HEAD", _) => {
            reply(client, "404 Not Found", "text/plain", "natwerk has /metrics only\n")
        }
        _ => reply(client, "405 Method Not Allowed", "text/plain", "GET only\n"),
    }
}

fn reply(mut client: &TcpStream, status: &str, kind: &str, body: &str) -> io::Result<()> {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    client.write_all(head.as_bytes())?;
    client.write_all(body.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Metrics {
        let mut metrics = Metrics::new();
        metrics.counter("drops", "Frames dropped", [(vec![("reason", "no_port".to_owned())], 7)]);
        metrics.number("sessions", "Live sessions", 3);
        metrics.ratio("busy", "Share", [(vec![("id", "a\"b\\c\nd".to_owned())], 0.25)]);
        metrics
    }

    #[test]
    fn metrics_are_written_as_open_metrics() {
        let expected = "\
# HELP natwerk_drops Frames dropped.
# TYPE natwerk_drops counter
natwerk_drops_total{reason=\"no_port\"} 7
# HELP natwerk_sessions Live sessions.
# TYPE natwerk_sessions gauge
natwerk_sessions 3
# HELP natwerk_busy Share.
# TYPE natwerk_busy gauge
natwerk_busy{id=\"a\\\"b\\\\c\\nd\"} 0.25
# EOF
";
        assert_eq!(sample().text(), expected);
    }

    fn get(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn the_server_answers_under_metrics_only() {
        let server = Server::start("127.0.0.1:0".parse().unwrap(), sample).unwrap();
        let answer = get(server.address(), "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.contains("\r\n\r\n# HELP natwerk_drops"), "{answer}");
        assert!(answer.ends_with("# EOF\n"), "{answer}");
        let answer = get(server.address(), "GET / HTTP/1.0\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
        let answer = get(server.address(), "POST /metrics HTTP/1.0\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 405"), "{answer}");
    }

    #[test]
    fn an_address_in_use_is_named() {
        let server = Server::start("127.0.0.1:0".parse().unwrap(), sample).unwrap();
        let error = Server::start(server.address(), sample).err().unwrap();
        assert!(error.to_string().contains("metrics_listen"), "{error}");
    }
}
