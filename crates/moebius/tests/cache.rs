//! The cache of packed models: the same bits as without it, never those of another model, and nothing lost or left.

mod support;

use std::fs::{self, File};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use moebius::{
    BackendOptions, Cache, CacheFilter, CacheUse, Cached, ConvertOptions, EntryState, Error, ErrorKind,
    HeldFormats, Model, OpenOptions, ScoreOptions, convert,
};
use support::{Scratch, assert_says, explained, golden};
use tempfile::TempDir;

const WEIGHTS: &str = "model.safetensors";
const MANIFEST: &str = "moebius-cache.json";

/// A cache of its own, which nothing is in yet.
struct Place {
    dir: TempDir,
    cache: Cache,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path().join("cache"));
        Place { dir, cache }
    }

    /// The names in the cache, sorted, without those of the cache itself.
    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.cache.dir()).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| ![".lock", "CACHEDIR.TAG"].contains(&&**name));
        names.sort();
        names
    }

    fn pack(&self, model: &Path, format: &str) -> Cached {
        let mut go_on = |_, _| ControlFlow::Continue(());
        let cached = self.cache.pack(model, &packing(format), &mut go_on).map_err(explained).unwrap();
        cached.expect("nobody said to stop")
    }

    /// Packs what is not there, and says where it is.
    #[track_caller]
    fn packed(&self, model: &Path, format: &str) -> PathBuf {
        match self.pack(model, format) {
            Cached::Packed { path, .. } => path,
            other => panic!("expected it to be packed, got {other:?}"),
        }
    }

    fn open(&self, model: &Path, format: &str) -> Model {
        let options =
            OpenOptions { format: held(format), cache: Some(self.cache.clone()), ..OpenOptions::default() };
        support::open(model, &options).map_err(explained).unwrap()
    }

    /// Checks that the model computes what it computes without a cache; says what the cache had for it.
    #[track_caller]
    fn check_bits(&self, model: &Path, format: &str) -> CacheUse {
        let plain = OpenOptions { format: held(format), ..OpenOptions::default() };
        let mut plain = support::open(model, &plain).map_err(explained).unwrap();
        assert!(matches!(plain.cache_use(), CacheUse::NotAsked));
        let mut cached = self.open(model, format);
        assert_eq!(bits(&mut cached), bits(&mut plain), "{} {format}", model.display());
        let (is, was) = (cached.info(), plain.info());
        assert_eq!((&is.tally, &is.unknown_tensors), (&was.tally, &was.unknown_tensors));
        match cached.cache_use() {
            CacheUse::NotAsked => CacheUse::NotAsked,
            CacheUse::Absent => CacheUse::Absent,
            CacheUse::Outdated(path) => CacheUse::Outdated(path.clone()),
            CacheUse::Mapped(path) => CacheUse::Mapped(path.clone()),
            CacheUse::Unusable(error) => {
                assert_eq!(error.kind(), ErrorKind::Runtime);
                assert!(error.hint().is_some());
                CacheUse::Unusable(Error::NothingToScore(0).into())
            }
        }
    }

    #[track_caller]
    fn check_mapped(&self, model: &Path, format: &str) {
        let cache_use = self.check_bits(model, format);
        assert!(matches!(cache_use, CacheUse::Mapped(_)), "{cache_use:?}");
    }

    #[track_caller]
    fn check_outdated(&self, model: &Path, format: &str) {
        let cache_use = self.check_bits(model, format);
        assert!(matches!(cache_use, CacheUse::Outdated(_)), "{cache_use:?}");
    }

    #[track_caller]
    fn check_absent(&self, model: &Path, format: &str) {
        let cache_use = self.check_bits(model, format);
        assert!(matches!(cache_use, CacheUse::Absent), "{cache_use:?}");
    }
}

fn held(format: &str) -> HeldFormats {
    if format.is_empty() { HeldFormats::AsStored } else { format.parse().unwrap() }
}

fn packing(format: &str) -> ConvertOptions {
    let backend = BackendOptions { threads: Some(1), ..BackendOptions::default() };
    ConvertOptions { backend, format: held(format), ..ConvertOptions::default() }
}

/// The bits of every log-probability of some ids.
fn bits(model: &mut Model) -> Vec<u32> {
    let scores = model.score(&[(5..21).collect()], &ScoreOptions::default()).unwrap().0;
    scores[0].logprobs.iter().map(|logprob| logprob.to_bits()).collect()
}

/// Makes a file look written, whatever the clock's ticks are.
fn touch(path: &Path) {
    let time = SystemTime::now() + Duration::from_secs(10);
    File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
}

#[test]
fn every_family_gives_the_same_bits_from_the_cache() {
    let place = Place::new();
    let goldens = fs::read_dir(golden("")).unwrap().map(|entry| entry.unwrap().path());
    let goldens: Vec<_> = goldens.filter(|dir| dir.join("config.json").is_file()).collect();
    assert!(goldens.len() > 10);
    for model in &goldens {
        let path = place.packed(model, "q4_k_m");
        assert_eq!(place.pack(model, "q4_k_m"), Cached::Found(path));
        place.check_mapped(model, "q4_k_m");
    }
    assert_eq!(place.names().len(), goldens.len());
}

#[test]
fn each_format_has_an_entry_of_its_own_and_as_stored_is_one() {
    let (place, model) = (Place::new(), golden("mixtral"));
    let formats: Vec<&str> = HeldFormats::names().into_iter().chain([""]).collect();
    for (count, format) in formats.iter().enumerate() {
        place.check_absent(&model, format);
        place.packed(&model, format);
        place.check_mapped(&model, format);
        assert_eq!(place.names().len(), count + 1);
    }
}

#[test]
fn another_number_of_experts_shares_the_copy() {
    let (place, model) = (Place::new(), golden("mixtral"));
    place.packed(&model, "q8_0");
    let options = OpenOptions {
        experts: Some(1),
        format: held("q8_0"),
        cache: Some(place.cache.clone()),
        ..OpenOptions::default()
    };
    let mut cached = support::open(&model, &options).unwrap();
    assert!(matches!(cached.cache_use(), CacheUse::Mapped(_)));
    let mut plain = support::open(&model, &OpenOptions { cache: None, ..options }).unwrap();
    assert_eq!(bits(&mut cached), bits(&mut plain));
}

#[test]
fn an_entry_says_what_it_is() {
    let (place, model) = (Place::new(), golden("mixtral"));
    assert!(place.cache.entries().unwrap().is_empty());
    let before = SystemTime::now() - Duration::from_secs(2);
    let path = place.packed(&model, "q4_0");
    let entries = place.cache.entries().unwrap();
    let [entry] = &*entries else { panic!("{entries:?}") };
    assert_eq!(entry.model.as_deref().map(Path::new), Some(&*model.canonicalize().unwrap()));
    assert_eq!((entry.format.as_deref(), entry.state), (Some("q4_0"), EntryState::Current));
    let size = |name: &str| fs::metadata(path.join(name)).unwrap().len();
    assert_eq!((entry.bytes, &entry.path), (size(WEIGHTS) + size(MANIFEST), &path));
    assert!(entry.made > Some(before) && entry.used > Some(before));
    let name = path.file_name().unwrap().to_str().unwrap();
    assert!(name.starts_with("mixtral-q4_0-"), "{name}");
}

#[test]
fn the_last_use_is_noted_and_a_cache_that_may_only_be_read_serves() {
    let (place, model) = (Place::new(), golden("mixtral"));
    let path = place.packed(&model, "q8_0");
    let manifest = path.join(MANIFEST);
    File::options().write(true).open(&manifest).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
    place.check_mapped(&model, "q8_0");
    assert!(place.cache.entries().unwrap()[0].used > Some(SystemTime::UNIX_EPOCH));
    let mut permissions = fs::metadata(&manifest).unwrap().permissions();
    permissions.set_readonly(true);
    fs::set_permissions(&manifest, permissions).unwrap();
    place.check_mapped(&model, "q8_0");
}

#[test]
fn a_model_that_was_changed_is_packed_anew_and_takes_the_place() {
    let (place, model) = (Place::new(), Scratch::of("mixtral"));
    let edits: [&dyn Fn(); 4] = [
        &|| touch(&model.file(WEIGHTS)),
        &|| model.write("config.json", [model.read("config.json"), b" ".to_vec()].concat()),
        &|| {
            model.edit_tensors(WEIGHTS, |tensors| {
                let name = "model.layers.0.self_attn.q_proj.weight";
                support::find(tensors, name).bytes.fill(0);
            });
            touch(&model.file(WEIGHTS));
        },
        &|| {
            model.edit_config(|config| {
                config.insert("rms_norm_eps".into(), 0.5.into());
            });
            touch(&model.file("config.json"));
        },
    ];
    place.packed(model.path(), "q8_0");
    for edit in edits {
        place.check_mapped(model.path(), "q8_0");
        edit();
        assert_eq!(place.cache.entries().unwrap()[0].state, EntryState::Outdated);
        place.check_outdated(model.path(), "q8_0");
        place.packed(model.path(), "q8_0");
        assert_eq!(place.names().len(), 1);
    }
    place.check_mapped(model.path(), "q8_0");
}

#[test]
#[cfg(unix)]
fn other_weights_with_the_old_size_and_time_are_noticed() {
    let (place, model) = (Place::new(), Scratch::of("mixtral"));
    place.packed(model.path(), "q8_0");
    let file = model.file(WEIGHTS);
    let modified = fs::metadata(&file).unwrap().modified().unwrap();
    let changed = |path: &Path| std::os::unix::fs::MetadataExt::ctime_nsec(&fs::metadata(path).unwrap());
    let before = changed(&file);
    let other = Scratch::of("mixtral");
    other.edit_tensors(WEIGHTS, |tensors| {
        support::find(tensors, "model.layers.1.self_attn.q_proj.weight").bytes.fill(0);
    });
    fs::rename(other.file(WEIGHTS), &file).unwrap();
    // Once, unless the clock has not ticked since.
    while {
        File::options().write(true).open(&file).unwrap().set_modified(modified).unwrap();
        changed(&file) == before
    } {}
    place.check_outdated(model.path(), "q8_0");
}

#[test]
fn shards_are_looked_at_one_by_one() {
    let (place, model) = (Place::new(), Scratch::of("mixtral_bf16_shards"));
    place.packed(model.path(), "q8_0");
    place.check_mapped(model.path(), "q8_0");
    let shards = fs::read_dir(model.path()).unwrap().map(|entry| entry.unwrap().path());
    let shards: Vec<_> = shards.filter(|path| path.extension().is_some_and(|e| e == "safetensors")).collect();
    assert!(shards.len() > 1);
    for shard in shards {
        touch(&shard);
        place.check_outdated(model.path(), "q8_0");
        place.packed(model.path(), "q8_0");
    }
}

#[test]
fn a_model_that_is_written_to_while_it_is_packed_is_not_kept() {
    let (place, model) = (Place::new(), Scratch::of("mixtral"));
    let mut first = true;
    let error = place.cache.pack(model.path(), &packing("q8_0"), &mut |_, _| {
        if std::mem::take(&mut first) {
            touch(&model.file(WEIGHTS));
        }
        ControlFlow::Continue(())
    });
    let error = error.unwrap_err();
    assert!(matches!(error, Error::SourceChanged(_)));
    assert_says(&explained(error), &["changed while it was packed"]);
    assert!(place.names().is_empty());
}

#[test]
fn what_is_stopped_or_refused_leaves_nothing() {
    let (place, model) = (Place::new(), golden("mixtral"));
    let stopped = place.cache.pack(&model, &packing("q8_0"), &mut |_, _| ControlFlow::Break(()));
    assert_eq!(stopped.unwrap(), None);
    assert!(place.names().is_empty());

    fs::write(place.dir.path().join("file"), "").unwrap();
    let nowhere = Cache::at(place.dir.path().join("file/cache"));
    let error = nowhere.pack(&model, &packing("q8_0"), &mut |_, _| ControlFlow::Continue(())).unwrap_err();
    assert!(matches!(error, Error::Write { .. }));
    assert_says(&explained(error), &["cannot write", "cache"]);

    let empty = place.dir.path().join("model");
    fs::create_dir(&empty).unwrap();
    fs::copy(model.join("config.json"), empty.join("config.json")).unwrap();
    let error = place.cache.pack(&empty, &packing(""), &mut |_, _| ControlFlow::Continue(())).unwrap_err();
    assert!(matches!(error, Error::NoWeights(_)));
}

#[test]
fn what_is_packed_already_needs_no_cache() {
    let (place, target) = (Place::new(), tempfile::tempdir().unwrap());
    let packed = target.path().join("packed");
    let mut go_on = |_, _| ControlFlow::Continue(());
    convert(golden("mixtral"), &packed, &packing("q8_0"), &mut go_on).unwrap();
    assert_eq!(place.pack(&packed, "q8_0"), Cached::NotNeeded);
    assert!(matches!(place.open(&packed, "q8_0").cache_use(), CacheUse::NotAsked));
    assert!(!place.cache.dir().exists());
}

#[test]
fn a_damaged_entry_is_left_aside_with_a_reason_and_packed_anew() {
    let model = golden("granitemoe");
    let cut =
        |path: &Path| File::options().write(true).open(path.join(WEIGHTS)).unwrap().set_len(999).unwrap();
    let scribble = |path: &Path| {
        let weights = path.join(WEIGHTS);
        let mut bytes = fs::read(&weights).unwrap();
        let end = bytes.len() - 5000;
        bytes[end..].fill(7);
        fs::write(&weights, bytes).unwrap();
        touch(&weights);
    };
    let garble = |path: &Path| fs::write(path.join(MANIFEST), "{\"key\":").unwrap();
    for damage in [&cut as &dyn Fn(&Path), &scribble, &garble] {
        let place = Place::new();
        let path = place.packed(&model, "q8_0");
        damage(&path);
        assert_eq!(place.cache.entries().unwrap()[0].state, EntryState::Damaged);
        let cache_use = place.check_bits(&model, "q8_0");
        assert!(matches!(cache_use, CacheUse::Unusable(_)), "{cache_use:?}");
        place.packed(&model, "q8_0");
        place.check_mapped(&model, "q8_0");
        assert_eq!(place.names().len(), 1);
    }
}

#[test]
fn an_entry_without_weights_or_with_the_name_of_another_key_is_no_entry_for_it() {
    let (place, model) = (Place::new(), golden("granitemoe"));
    let path = place.packed(&model, "q8_0");
    fs::remove_file(path.join(WEIGHTS)).unwrap();
    place.check_absent(&model, "q8_0");
    place.packed(&model, "q8_0");

    let other = place.packed(&golden("mixtral"), "q8_0");
    fs::remove_dir_all(&path).unwrap();
    fs::rename(&other, &path).unwrap();
    place.check_absent(&model, "q8_0");
    place.packed(&model, "q8_0");
    place.check_mapped(&model, "q8_0");
}

#[test]
fn an_entry_that_does_not_hold_what_would_be_packed_now_is_left_aside() {
    let (place, model) = (Place::new(), golden("granitemoe"));
    let (wanted, other) = (place.packed(&model, "q8_0"), place.packed(&model, "q4_0"));
    fs::rename(other.join(WEIGHTS), wanted.join(WEIGHTS)).unwrap();
    // The manifest vouches for them.
    let manifest = |path: &Path| -> serde_json::Value {
        serde_json::from_slice(&fs::read(path.join(MANIFEST)).unwrap()).unwrap()
    };
    let mut forged = manifest(&wanted);
    forged["weights"] = manifest(&other)["weights"].clone();
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let metadata = fs::metadata(wanted.join(WEIGHTS)).unwrap();
        forged["weights"]["changed_ns"] = (metadata.ctime() * 1_000_000_000 + metadata.ctime_nsec()).into();
    }
    fs::write(wanted.join(MANIFEST), forged.to_string()).unwrap();
    let cache_use = place.check_bits(&model, "q8_0");
    assert!(matches!(cache_use, CacheUse::Unusable(_)), "{cache_use:?}");
}

#[test]
fn threads_that_pack_the_same_at_once_share_one_entry() {
    let (place, model) = (Place::new(), golden("olmoe"));
    let outcomes: Vec<Cached> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| place.pack(&model, "q4_0"))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let packed = outcomes.iter().filter(|outcome| matches!(outcome, Cached::Packed { .. })).count();
    assert_eq!((packed, place.names().len()), (1, 1), "{outcomes:?}");
    place.check_mapped(&model, "q4_0");
}

#[test]
fn clearing_removes_what_was_asked_for() {
    let place = Place::new();
    let (mixtral, olmoe, gone) = (golden("mixtral"), golden("olmoe"), Scratch::of("granitemoe"));
    for (model, format) in [(&*mixtral, "q8_0"), (&mixtral, "q4_0"), (&olmoe, "q8_0"), (gone.path(), "q8_0")]
    {
        place.packed(model, format);
    }
    let gone_path = gone.path().canonicalize().unwrap();
    drop(gone);
    let clear = |filter: CacheFilter| place.cache.clear(&filter).unwrap().0.len();
    let filter = CacheFilter::default;
    assert_eq!(clear(CacheFilter { format: Some(held("q6_k")), ..filter() }), 0);
    assert_eq!(clear(CacheFilter { model: Some("olmoe".into()), ..filter() }), 0);
    assert_eq!(
        clear(CacheFilter { model: Some(mixtral.clone()), format: Some(held("q4_0")), ..filter() }),
        1
    );
    assert_eq!(clear(CacheFilter { model: Some(olmoe.join("config.json")), ..filter() }), 1);
    let outdated = CacheFilter { outdated: true, ..filter() };
    assert_eq!(clear(CacheFilter { model: Some(mixtral.clone()), ..outdated.clone() }), 0);
    assert_eq!(clear(CacheFilter { model: Some(gone_path), ..outdated }), 1);
    let freed = place.cache.clear(&filter()).unwrap().0;
    assert_eq!((freed.len(), freed[0].format.as_deref()), (1, Some("q8_0")));
    assert!(place.names().is_empty());
    assert_eq!(Cache::at(place.dir.path().join("nowhere")).clear(&filter()).unwrap().0.len(), 0);
}

#[test]
fn gguf_files_of_one_directory_have_copies_of_their_own() {
    let (place, dir) = (Place::new(), tempfile::tempdir().unwrap());
    let files = ["olmoe", "mixtral"].map(|name| {
        let file = dir.path().join(format!("{name}.gguf"));
        fs::copy(golden("").join(format!("../goldens-gguf/{name}.gguf")), &file).unwrap();
        place.packed(&file, "q8_0");
        file
    });
    let entries = place.cache.entries().unwrap();
    let models: Vec<_> = entries.iter().map(|entry| PathBuf::from(entry.model.as_deref().unwrap())).collect();
    assert_eq!(models, [files[1].canonicalize().unwrap(), files[0].canonicalize().unwrap()]);
    assert!(place.names().iter().any(|name| name.starts_with("olmoe.gguf-q8_0-")), "{:?}", place.names());
    let filter = CacheFilter { model: Some(files[0].clone()), ..CacheFilter::default() };
    assert_eq!(place.cache.clear(&filter).unwrap().0.len(), 1);
    assert!(place.names()[0].starts_with("mixtral.gguf-q8_0-"), "{:?}", place.names());
}

#[test]
fn clearing_leaves_alone_what_is_not_the_caches() {
    let (place, model) = (Place::new(), golden("mixtral"));
    let path = place.packed(&model, "q8_0");
    let cache = place.cache.dir();
    // A model of somebody's, a file, and something put into an entry.
    fs::create_dir(cache.join("mine")).unwrap();
    fs::write(cache.join("mine").join(WEIGHTS), "mine").unwrap();
    fs::write(cache.join("note.txt"), "mine").unwrap();
    fs::write(path.join("note.txt"), "mine").unwrap();
    #[cfg(unix)]
    {
        let outside = place.dir.path().join("outside");
        fs::create_dir(&outside).unwrap();
        for name in [WEIGHTS, MANIFEST] {
            fs::copy(path.join(name), outside.join(name)).unwrap();
        }
        std::os::unix::fs::symlink(&outside, cache.join("link")).unwrap();
    }
    assert_eq!(place.cache.clear(&CacheFilter::default()).unwrap().0.len(), 1);
    let left = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
    assert_eq!(left, ["note.txt"]);
    assert_eq!(fs::read(cache.join("mine").join(WEIGHTS)).unwrap(), b"mine");
    assert!(cache.join("note.txt").exists());
    assert!(cfg!(not(unix)) || place.dir.path().join("outside").join(WEIGHTS).exists());
    assert!(cfg!(not(unix)) || cache.join("link").symlink_metadata().is_ok());
}

#[test]
fn what_a_killed_program_left_is_removed_by_the_next_one_or_by_clearing() {
    let (place, model) = (Place::new(), golden("mixtral"));
    let leave = |name: &str| {
        let left = place.cache.dir().join(format!(".{name}.partial-1-0"));
        fs::create_dir(&left).unwrap();
        fs::write(left.join(WEIGHTS), "half").unwrap();
        let mark =
            "moebius writes the directory of the same name; it may go when no program holds this file\n";
        fs::write(left.with_file_name(format!(".{name}.partial-1-0.lock")), mark).unwrap();
    };
    place.packed(&model, "q8_0");
    leave("another-q8_0-0123456789abcdef");
    place.packed(&model, "q4_0");
    assert_eq!(place.names().len(), 2);
    leave("another-q8_0-0123456789abcdef");
    let (entries, leftover_bytes) =
        place.cache.clear(&CacheFilter { outdated: true, ..CacheFilter::default() }).unwrap();
    assert_eq!((entries.len(), leftover_bytes, place.names().len()), (0, 4, 2));
}

#[test]
fn a_directory_that_was_there_before_is_not_marked_as_a_cache() {
    let (place, model) = (Place::new(), golden("mixtral"));
    fs::create_dir(place.cache.dir()).unwrap();
    fs::write(place.cache.dir().join("note.txt"), "mine").unwrap();
    place.packed(&model, "q8_0");
    assert!(!place.cache.dir().join("CACHEDIR.TAG").exists());
    let fresh = Place::new();
    fresh.packed(&model, "q8_0");
    assert!(fresh.cache.dir().join("CACHEDIR.TAG").exists());
}
