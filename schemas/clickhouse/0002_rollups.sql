-- A choice of points of long series, so that a curve of ten million points is drawn from some ten thousands: one row
-- per series and part of the metrics table, made after the part by the query service and only for series that are
-- long in it. It holds the smallest and the largest point of each stretch of 2^shift steps and every point that is
-- not finite. A part never changes and is named by the hash of its content, so that a row is right for as long as
-- that part is active, and is not looked at afterwards; losing rows, or all of them, costs time and nothing else.
--
-- One row is all there is of a series in a part, because one row is inserted whole or not at all. Rows are large, so
-- each is a granule of its own.
--
-- Only where a table has its parts on the server that is asked: a cluster's Distributed table is scanned.
-- only: single
CREATE TABLE IF NOT EXISTS metric_rollups
(
    run_id String,
    key String,
    part String COMMENT 'hash_of_all_files of the part in system.parts',
    shift UInt8,
    points UInt64 COMMENT 'rows of the series in the part',
    steps Array(Int64) CODEC(ZSTD(1)),
    timestamps Array(Int64) CODEC(ZSTD(1)),
    values Array(Float64) CODEC(ZSTD(1)),
    made_at DateTime DEFAULT now()
)
ENGINE = ReplacingMergeTree
ORDER BY (run_id, key, part)
SETTINGS index_granularity = 1;
