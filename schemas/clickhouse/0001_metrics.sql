-- Metric points: one row each, and the same point logged twice is one point (MLflow's rule), so the sorting key
-- is the whole identity and ReplacingMergeTree drops what a replay repeats.
--
-- Measured on 12 million points of 200 runs x 50 keys: 3.6 bytes a point on disk after merges. Delta beats
-- DoubleDelta on timestamps by 9% of the whole; Gorilla and FPC on values are worse than ZSTD alone.
-- LowCardinality(String) costs a third less than String for 10,000 and 100,000 runs in a flush, and 12% more for
-- 1,000,000 keys in one run.
--
-- There are no partitions: clients choose the timestamps, and could choose a partition for every point.
-- Offsets are committed after an insert, so inserted parts are synced, and merged parts before they replace them.
--
-- Replicas keep ClickHouse's default deduplication window, in which Keeper records an insert's token together with
-- its part. A single server has none (the default): MergeTreeSink::commitPart logs the token before it renames the
-- part into place and nothing compares the two after a crash, so that a repeated insert could be taken for done.
-- There a repeated insert stores its rows twice until a merge, which readers do not see.
CREATE TABLE IF NOT EXISTS ${table} ${on_cluster}
(
    run_id LowCardinality(String) CODEC(ZSTD(1)),
    key LowCardinality(String) CODEC(ZSTD(1)),
    step Int64 CODEC(DoubleDelta, ZSTD(1)),
    timestamp Int64 COMMENT 'Unix, milliseconds' CODEC(Delta, ZSTD(1)),
    value Float64 CODEC(ZSTD(1))
)
ENGINE = ${replacing_merge_tree}
PRIMARY KEY (run_id, key, step)
ORDER BY (run_id, key, step, timestamp, value)
SETTINGS
    fsync_after_insert = 1,
    fsync_part_directory = 1,
    min_rows_to_fsync_after_merge = 1,
    old_parts_lifetime = 60,
    merge_selector_base = 8;

-- only: cluster
-- A run's rows live on one shard, so that its reads and the removal of its duplicates stay there.
CREATE TABLE IF NOT EXISTS metrics ${on_cluster} AS ${table}
ENGINE = Distributed(${cluster}, currentDatabase(), ${table}, cityHash64(run_id));
