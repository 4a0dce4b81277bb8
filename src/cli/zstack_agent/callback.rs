//! Answers on their way to the management server. Each has a thread of its own while it is tried, so that a server that
//! does not answer holds up no command.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use tiny_http::Header;

/// Where an answer goes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Target {
    /// The URL that the command named.
    pub url: String,
    /// The task that the command belongs to.
    pub task: String,
}

impl Target {
    /// The target that a command's headers name.
    ///
    /// # Errors
    /// With the name of the header that is missing.
    pub fn of(headers: &[Header]) -> Result<Self, &'static str> {
        let value = |name: &'static str| {
            let mut found = headers.iter().filter(|header| header.field.equiv(name));
            let text = found.next().map(|header| header.value.as_str().trim().to_owned());
            text.filter(|text| !text.is_empty()).ok_or(name)
        };
        Ok(Self { url: value(CALLBACK_URL)?, task: value(TASK_UUID)? })
    }
}

/// The answers on their way.
pub struct Callbacks {
    agent: ureq::Agent,
    on_their_way: Arc<AtomicUsize>,
    is_stopping: Arc<AtomicBool>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Callbacks {
    /// None yet.
    pub fn new() -> Self {
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(PATIENCE))
            .http_status_as_error(false)
            .build();
        Self {
            agent: ureq::Agent::new_with_config(config),
            on_their_way: Arc::default(),
            is_stopping: Arc::default(),
            threads: Mutex::default(),
        }
    }

    /// Sends `reply` to `target`.
    pub fn send(&self, target: Target, reply: serde_json::Value) {
        let delivery = Delivery { agent: self.agent.clone(), target, body: reply.to_string() };
        if self.on_their_way.fetch_add(1, Ordering::Relaxed) >= ON_THEIR_WAY_MAX {
            // With so many unanswered, one try must do.
            delivery.attempt();
            self.on_their_way.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        let (count, is_stopping) = (Arc::clone(&self.on_their_way), Arc::clone(&self.is_stopping));
        let thread = std::thread::spawn(move || {
            delivery.deliver(&is_stopping);
            count.fetch_sub(1, Ordering::Relaxed);
        });
        if let Ok(mut threads) = self.threads.lock() {
            threads.retain(|thread| !thread.is_finished());
            threads.push(thread);
        }
    }

    /// Waits for the tries under way; what fails now is not tried again.
    pub fn finish(self) {
        self.is_stopping.store(true, Ordering::Relaxed);
        for thread in self.threads.into_inner().unwrap_or_default() {
            let _ = thread.join();
        }
    }
}

/// An answer and where it goes.
struct Delivery {
    agent: ureq::Agent,
    target: Target,
    body: String,
}

impl Delivery {
    /// Tries until the server has it, or says that it does not want it.
    fn deliver(&self, is_stopping: &AtomicBool) {
        for _ in 0..TRIES {
            if self.attempt() {
                return;
            }
            if is_stopping.load(Ordering::Relaxed) {
                break;
            }
            std::thread::sleep(PAUSE);
        }
        eprintln!(
            "natwerk: nobody took the answer of task {} at {}",
            self.target.task, self.target.url
        );
    }

    /// Whether the server has it, or does not want it: 404 means that it has one already or waits no more.
    fn attempt(&self) -> bool {
        let request = self
            .agent
            .post(&self.target.url)
            .header(TASK_UUID, &self.target.task)
            .header("Content-Type", "application/json");
        let status = request.send(self.body.as_str()).map(|response| response.status().as_u16());
        matches!(status, Ok(200..300 | 404))
    }
}

const CALLBACK_URL: &str = "callbackurl";
const TASK_UUID: &str = "taskuuid";
/// As often as ZStack's own router.
const TRIES: u32 = 60;
const PAUSE: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(10);
/// Answers that may be on their way at once.
const ON_THEIR_WAY_MAX: usize = 256;
