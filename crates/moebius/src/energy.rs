//! Reads what the machine's energy counters say: RAPL through Linux's powercap tree, with the feature `nvml` NVIDIA's cards,
//! or nothing.
//!
//! A tree has zones `intel-rapl:N` (AMD's processors have the same names), and in them `intel-rapl:N:M`, each with a
//! `name`, a counter `energy_uj` and its largest value `max_energy_range_uj`. Packages and the memory beside them are
//! added up; cores and graphics are parts of their package, and `psys` is the whole board, which counts where there are
//! no packages. Of cards all are added up, as of sockets.
//!
//! Invariants: a sum lacks no zone, so one counter that cannot be read makes energy unknown; whoever asks less often than
//! a counter may go around gets `None`.

#[cfg(feature = "nvml")]
mod nvml;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

#[cfg(feature = "nvml")]
use moebius_metering::NVML_UPDATE;
use moebius_metering::{Energy, Power, RAPL_UPDATE, WrappingCounter};

/// Where Linux shows energy counters.
pub const POWERCAP: &str = "/sys/class/powercap";

/// Longer than any number in the tree.
const MAX_FILE_BYTES: u64 = 64;
/// Stretches without work whose powers are averaged.
const IDLE_SAMPLES: usize = 5;

/// Whether this machine's energy can be counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CounterState {
    /// There are counters, and these zones are added up.
    Readable(Vec<String>),
    /// There are counters, but one cannot be read or says what it cannot.
    Unreadable {
        /// The file, or the card.
        counter: String,
        /// What is wrong with it.
        reason: String,
        /// Whether the system forbids it.
        forbidden: bool,
    },
    /// There are none that this program knows.
    Absent,
}

impl CounterState {
    fn unreadable((counter, error): Unusable) -> Self {
        let forbidden = error.kind() == io::ErrorKind::PermissionDenied;
        CounterState::Unreadable { counter, reason: error.to_string(), forbidden }
    }

    /// What can be done about counters that cannot be read.
    pub fn hint(&self) -> Option<String> {
        match self {
            CounterState::Readable(_) => None,
            CounterState::Unreadable { forbidden: true, counter, .. } if counter.starts_with(POWERCAP) => {
                Some(format!(
                    "only root may read `{counter}`; `sudo chmod a+r {POWERCAP}/intel-rapl*/energy_uj` lets everybody until the \
                 next start, and --watts W estimates without counters"
                ))
            }
            CounterState::Unreadable { .. } | CounterState::Absent => {
                Some("--watts W estimates energy from the power that the machine takes".into())
            }
        }
    }
}

/// Says how much energy stretches of time took.
#[derive(Debug)]
pub struct EnergyMeter {
    state: CounterState,
    zones: Vec<Zone>,
    /// Grows whenever a stretch cannot be known.
    gaps: u64,
    idle: Option<Power>,
    watts: Option<f64>,
}

/// A moment at which counters were read.
#[derive(Clone, Copy, Debug)]
pub struct EnergyMark {
    at: Instant,
    microjoules: u64,
    gaps: u64,
}

#[derive(Debug)]
struct Zone {
    counter: WrappingCounter,
    register: Register,
    /// When it was read last.
    read: Instant,
    microjoules: u64,
}

/// Where a counter is read.
#[derive(Debug)]
enum Register {
    File(PathBuf),
    #[cfg(feature = "nvml")]
    Card(nvml::Card),
}

impl EnergyMeter {
    /// Looks for this machine's counters. Where there are none that can be read, `watts` is the power that energy is
    /// estimated from.
    pub fn open(watts: Option<f64>) -> Self {
        let zones = zones(Path::new(POWERCAP));
        #[cfg(feature = "nvml")]
        let zones = zones.and_then(|mut zones| {
            zones.extend(nvml::cards()?);
            Ok(zones)
        });
        EnergyMeter::with(zones, watts)
    }

    /// As [`EnergyMeter::open`], with the tree of counters at `root` and no cards.
    pub fn open_at(root: &Path, watts: Option<f64>) -> Self {
        EnergyMeter::with(zones(root), watts)
    }

    fn with(zones: Result<Vec<(String, Zone)>, Unusable>, watts: Option<f64>) -> Self {
        let (state, zones) = match zones {
            Ok(zones) if zones.is_empty() => (CounterState::Absent, Vec::new()),
            Ok(zones) => {
                let (names, zones) = zones.into_iter().unzip();
                (CounterState::Readable(names), zones)
            }
            Err(unusable) => (CounterState::unreadable(unusable), Vec::new()),
        };
        EnergyMeter { state, zones, gaps: 0, idle: None, watts }
    }

    /// What counters there are.
    pub fn state(&self) -> &CounterState {
        &self.state
    }

    /// Whether energy is measured, or estimated from stated watts.
    pub fn is_known(&self) -> bool {
        !self.zones.is_empty() || self.watts.is_some()
    }

    /// Power without work, if it was measured.
    pub fn idle(&self) -> Option<Power> {
        self.idle
    }

    /// Does nothing for `time` and takes what that costs for what idling costs. Without counters it returns at once.
    pub fn measure_idle(&mut self, time: Duration) {
        if self.zones.is_empty() {
            return;
        }
        let samples = (0..IDLE_SAMPLES).filter_map(|_| {
            let mark = self.mark();
            std::thread::sleep(time / IDLE_SAMPLES as u32);
            let (microjoules, elapsed) = self.counted_since(&mark)?;
            Some(microjoules as f64 * 1e-6 / elapsed.as_secs_f64())
        });
        let watts: Vec<f64> = samples.collect();
        self.idle = Power::of(&watts);
    }

    /// Reads the counters. Read now and then within long stretches, too: a counter that goes around unseen makes its
    /// stretch unknown.
    pub fn mark(&mut self) -> EnergyMark {
        let now = Instant::now();
        let failed = self.zones.iter_mut().map(|zone| zone.advance(now)).filter(|known| !known).count();
        self.gaps += u64::from(failed > 0);
        let microjoules = self.zones.iter().map(|zone| zone.microjoules).sum();
        EnergyMark { at: now, microjoules, gaps: self.gaps }
    }

    /// What was taken since `mark`, idling subtracted if it was measured; an estimate if there are no counters but watts
    /// were stated; else `None`.
    pub fn since(&mut self, mark: &EnergyMark) -> Option<Energy> {
        match self.zones.is_empty() {
            true => self.watts.map(|watts| Energy::estimated(watts, mark.at.elapsed())),
            false => {
                let (microjoules, elapsed) = self.counted_since(mark)?;
                let update = self.zones.iter().map(|zone| zone.register.update()).max()?;
                Energy::counted(microjoules, elapsed, update, self.idle)
            }
        }
    }

    fn counted_since(&mut self, mark: &EnergyMark) -> Option<(u64, Duration)> {
        let now = self.mark();
        let known = now.gaps == mark.gaps && now.at > mark.at;
        known.then(|| (now.microjoules - mark.microjoules, now.at - mark.at))
    }
}

/// A counter and why it cannot be used.
type Unusable = (String, io::Error);

/// The zones of a tree that are to be added up, with their names; none if there is no tree.
fn zones(root: &Path) -> Result<Vec<(String, Zone)>, Unusable> {
    let entries = match std::fs::read_dir(root) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err((root.display().to_string(), error)),
    };
    let mut names = BTreeMap::new();
    for entry in entries.flatten() {
        let file_name = entry.file_name().to_string_lossy().into_owned();
        let Some(id) = file_name.strip_prefix("intel-rapl:") else { continue };
        let path = entry.path().join("name");
        let name = short_text(&path).map_err(|error| (path.display().to_string(), error))?;
        names.insert(id.to_owned(), (name, entry.path()));
    }
    let is_package = |id: &str| names.get(id).is_some_and(|(name, _)| name.starts_with("package"));
    let any_package = names.keys().any(|id| is_package(id));
    let mut chosen = Vec::new();
    for (id, (name, dir)) in &names {
        let parent = id.rsplit_once(':').map(|(parent, _)| parent);
        let label = match parent {
            None if is_package(id) || (name == "psys" && !any_package) => name.clone(),
            Some(parent) if name == "dram" && is_package(parent) => format!("{}/{name}", names[parent].0),
            _ => continue,
        };
        chosen.push((label, Zone::open(dir)?));
    }
    Ok(chosen)
}

impl Zone {
    fn open(dir: &Path) -> Result<Zone, Unusable> {
        let read = |name: &str| {
            let path = dir.join(name);
            number(&path).map_err(|error| (path.display().to_string(), error))
        };
        let (largest, now) = (read("max_energy_range_uj")?, read("energy_uj")?);
        let path = dir.join("energy_uj");
        match WrappingCounter::new(largest, now) {
            Some(counter) => Ok(Zone::new(counter, Register::File(path))),
            None => {
                Err((path.display().to_string(), invalid(format!("expected at most {largest}, got {now}"))))
            }
        }
    }

    fn new(counter: WrappingCounter, register: Register) -> Zone {
        Zone { counter, register, read: Instant::now(), microjoules: 0 }
    }

    /// Reads the counter; whether what it says can be believed.
    fn advance(&mut self, now: Instant) -> bool {
        let Ok(at) = self.register.microjoules() else { return false };
        let elapsed = now.saturating_duration_since(std::mem::replace(&mut self.read, now));
        let total = self.counter.advance(at, elapsed);
        self.microjoules = total.unwrap_or(self.microjoules);
        total.is_some()
    }
}

impl Register {
    fn microjoules(&self) -> io::Result<u64> {
        match self {
            Register::File(path) => number(path),
            #[cfg(feature = "nvml")]
            Register::Card(card) => card.microjoules(),
        }
    }

    /// How often it is brought up to date.
    fn update(&self) -> Duration {
        match self {
            Register::File(_) => RAPL_UPDATE,
            #[cfg(feature = "nvml")]
            Register::Card(_) => NVML_UPDATE,
        }
    }
}

/// A whole number that a file consists of.
fn number(path: &Path) -> io::Result<u64> {
    let text = short_text(path)?;
    text.parse().map_err(|_| invalid(format!("expected a whole number, got `{}`", text.escape_debug())))
}

/// The text of a small file, without white space at its ends.
fn short_text(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_FILE_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
}

fn invalid(reason: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

#[cfg(test)]
mod tests {
    use moebius_metering::EnergySource;

    use super::*;

    /// A tree of counters that a test can set.
    struct Tree(tempfile::TempDir);

    impl Tree {
        fn new(zones: &[(&str, &str)]) -> Self {
            let tree = Tree(tempfile::tempdir().unwrap());
            for (id, name) in zones {
                std::fs::create_dir(tree.dir(id)).unwrap();
                tree.write(id, "name", &format!("{name}\n"));
                tree.write(id, "max_energy_range_uj", "262143328850\n");
                tree.write(id, "energy_uj", "1000\n");
            }
            tree
        }

        fn dir(&self, id: &str) -> PathBuf {
            self.0.path().join(format!("intel-rapl:{id}"))
        }

        fn write(&self, id: &str, file: &str, text: &str) {
            std::fs::write(self.dir(id).join(file), text).unwrap();
        }

        fn open(&self) -> EnergyMeter {
            EnergyMeter::open_at(self.0.path(), None)
        }
    }

    fn unreadable(meter: &EnergyMeter) -> (&str, &str) {
        match meter.state() {
            CounterState::Unreadable { counter, reason, .. } => (counter, reason),
            other => panic!("expected a counter that cannot be read, got {other:?}"),
        }
    }

    const TWO_SOCKETS: [(&str, &str); 8] = [
        ("0", "package-0"),
        ("0:0", "core"),
        ("0:1", "uncore"),
        ("0:2", "dram"),
        ("1", "package-1"),
        ("1:0", "core"),
        ("1:1", "dram"),
        ("2", "psys"),
    ];

    #[test]
    fn packages_and_their_memory_are_added_up_and_nothing_twice() {
        let tree = Tree::new(&TWO_SOCKETS);
        let mut meter = tree.open();
        let names = ["package-0", "package-0/dram", "package-1", "package-1/dram"].map(String::from);
        assert_eq!(meter.state(), &CounterState::Readable(names.to_vec()));
        let mark = meter.mark();
        for (at, id) in [(1u64, "0"), (10, "0:0"), (100, "0:2"), (1_000, "1"), (10_000, "1:1"), (7, "2")] {
            tree.write(id, "energy_uj", &(1_000 + 1_000_000 * at).to_string());
        }
        let energy = meter.since(&mark).expect("all are there");
        assert_eq!((energy.gross_joules, energy.source), (11_101.0, EnergySource::Counter));
        assert!(energy.uncertainty_joules > Some(0.0) && energy.idle_joules.is_none());
    }

    #[test]
    fn the_whole_board_counts_where_there_are_no_packages() {
        let meter = Tree::new(&[("0", "psys"), ("0:0", "core")]).open();
        assert_eq!(meter.state(), &CounterState::Readable(vec!["psys".into()]));
        assert_eq!(Tree::new(&[("0", "core")]).open().state(), &CounterState::Absent);
    }

    #[test]
    fn a_counter_that_goes_around_goes_on() {
        let tree = Tree::new(&[("0", "package-0"), ("1", "package-1")]);
        tree.write("0", "energy_uj", "262143328850");
        let mut meter = tree.open();
        let mark = meter.mark();
        tree.write("0", "energy_uj", "3000000");
        assert_eq!(meter.since(&mark).map(|energy| energy.gross_joules), Some(3.0));
    }

    #[test]
    fn a_forbidden_counter_is_unknown_and_the_hint_says_how_to_allow_it() {
        let error = io::Error::from(io::ErrorKind::PermissionDenied);
        let counter = "/sys/class/powercap/intel-rapl:0/energy_uj".to_owned();
        let state = CounterState::unreadable((counter, error));
        assert!(matches!(state, CounterState::Unreadable { forbidden: true, .. }));
        let hint = state.hint().expect("something can be done");
        assert!(hint.contains("chmod a+r") && hint.contains("--watts"), "{hint}");
    }

    #[cfg(unix)]
    #[test]
    fn a_counter_without_permission_is_told_apart_from_one_that_is_broken() {
        use std::os::unix::fs::PermissionsExt;

        let tree = Tree::new(&[("0", "package-0")]);
        let path = tree.dir("0").join("energy_uj");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o000)).unwrap();
        let meter = tree.open();
        if File::open(&path).is_ok() {
            return; // whoever runs the tests may read everything
        }
        assert_eq!(unreadable(&meter).0, path.display().to_string());
        assert!(matches!(meter.state(), CounterState::Unreadable { forbidden: true, .. }));
    }

    #[test]
    fn garbage_is_named_and_nothing_is_counted() {
        for (file, text, reason) in [
            ("energy_uj", "many\n", "expected a whole number, got `many`"),
            ("energy_uj", "-5", "expected a whole number, got `-5`"),
            ("energy_uj", "", "expected a whole number, got ``"),
            ("energy_uj", "262143328851", "expected at most 262143328850, got 262143328851"),
            ("max_energy_range_uj", "0", "expected at most 0, got 1000"),
            ("max_energy_range_uj", "1e9", "expected a whole number, got `1e9`"),
            ("energy_uj", &"9".repeat(4096), "expected a whole number"),
        ] {
            let tree = Tree::new(&[("0", "package-0"), ("0:1", "dram")]);
            tree.write("0:1", file, text);
            let mut meter = tree.open();
            assert!(unreadable(&meter).1.contains(reason), "{:?}", meter.state());
            let mark = meter.mark();
            assert_eq!(meter.since(&mark), None);
        }
        let tree = Tree::new(&[("0", "package-0")]);
        std::fs::remove_file(tree.dir("0").join("max_energy_range_uj")).unwrap();
        assert!(unreadable(&tree.open()).0.ends_with("/max_energy_range_uj"));
    }

    #[test]
    fn a_counter_that_breaks_on_the_way_leaves_a_gap_and_no_guess() {
        let tree = Tree::new(&[("0", "package-0")]);
        let mut meter = tree.open();
        let mark = meter.mark();
        tree.write("0", "energy_uj", "oops");
        assert_eq!(meter.since(&mark), None);
        tree.write("0", "energy_uj", "5001000");
        let later = meter.mark();
        assert_eq!(meter.since(&mark), None, "the gap is within");
        tree.write("0", "energy_uj", "7001000");
        assert_eq!(meter.since(&later).map(|energy| energy.gross_joules), Some(2.0));
    }

    #[test]
    fn without_a_tree_energy_is_unknown_or_estimated() {
        let absent = Path::new("/no/such/tree");
        let mut meter = EnergyMeter::open_at(absent, None);
        assert_eq!(meter.state(), &CounterState::Absent);
        meter.measure_idle(Duration::from_secs(3600));
        let mark = meter.mark();
        assert_eq!((meter.since(&mark), meter.idle()), (None, None));
        let mut meter = EnergyMeter::open_at(absent, Some(65.0));
        let mark = meter.mark();
        let energy = meter.since(&mark).expect("watts were stated");
        assert_eq!((energy.source, energy.uncertainty_joules), (EnergySource::Estimate, None));
    }

    #[test]
    fn stated_watts_do_not_stand_in_for_counters_that_can_be_read() {
        let tree = Tree::new(&[("0", "package-0")]);
        let mut meter = EnergyMeter::open_at(tree.0.path(), Some(65.0));
        let mark = meter.mark();
        tree.write("0", "energy_uj", "2001000");
        let energy = meter.since(&mark).expect("a counter");
        assert_eq!((energy.gross_joules, energy.source), (2.0, EnergySource::Counter));
    }

    #[test]
    fn idling_is_measured_from_counters_that_stand_still() {
        let tree = Tree::new(&[("0", "package-0")]);
        let mut meter = tree.open();
        meter.measure_idle(Duration::from_millis(5));
        assert_eq!(meter.idle(), Some(Power { watts: 0.0, uncertainty_watts: 0.0 }));
    }
}
