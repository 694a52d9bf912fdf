-- The lineage: every table and view of lineage.duckdb. This file is the manual; ask with `evolve sql "SELECT ..."`.
--
-- Scores belong to genotypes, ancestry belongs to individuals. A score is in the target's own unit (runs.metric); a
-- column named gain or gain_* is positive when better, whatever the direction of the metric. Times are UTC. Rungs and
-- depths never mix in one statistic, and the seed is the unit of replication.

CREATE TABLE runs (                    -- one row: what this run directory is a run of
    run_id VARCHAR PRIMARY KEY,        -- name of the run
    created_at TIMESTAMP NOT NULL,     -- when it began
    target VARCHAR NOT NULL,           -- name of the target
    metric VARCHAR NOT NULL,           -- name of the score, e.g. val_bpb
    direction VARCHAR NOT NULL CHECK (direction IN ('minimize', 'maximize')), -- which way is better
    base_id VARCHAR NOT NULL,          -- hash of the base tree that every gene is anchored to
    config JSON NOT NULL,              -- all settings, resolved: config->>'$.seed'
    seed BIGINT NOT NULL,              -- seed of the run; every random choice derives from it
    git_commit VARCHAR,                -- commit of the target's repository, if it is one
    machine VARCHAR,                   -- what it runs on
    status VARCHAR NOT NULL,           -- running, finished, stopped, failed
    rungs VARCHAR[] NOT NULL,          -- names of the rungs, cheapest first; the last one counts
    champion VARCHAR                   -- the genotype believed best so far, replicated on seeds that did not choose it
);

CREATE TABLE base_files (              -- the base tree: what edits are spans of
    path VARCHAR PRIMARY KEY,          -- path below the target's root
    text VARCHAR NOT NULL              -- the whole file, newlines untouched
);

CREATE TABLE genes (                   -- one idea each: a few edits that only make sense together
    gene_id VARCHAR PRIMARY KEY,       -- hash of the canonical edits
    title VARCHAR NOT NULL,            -- one line for people
    hypothesis VARCHAR NOT NULL,       -- why it might help
    category VARCHAR NOT NULL,         -- architecture, attention, initialisation, optimiser, schedule, ...
    origin VARCHAR NOT NULL,           -- llm, knob, human, import, merge
    allele_of VARCHAR,                 -- the gene this one is another version of
    diff VARCHAR NOT NULL,             -- unified diff of base against base + gene alone
    lines_added INTEGER NOT NULL,      -- lines the diff adds
    lines_removed INTEGER NOT NULL,    -- lines the diff removes
    created_at TIMESTAMP NOT NULL,     -- when it was recorded
    is_null BOOLEAN NOT NULL           -- a null gene: it changes rounding but not the law (see noise_floor)
);

CREATE TABLE gene_edits (              -- the edits of a gene, each a half-open span of one base file, or a file added or deleted whole
    gene_id VARCHAR NOT NULL,          -- whose edit
    kind VARCHAR NOT NULL,             -- insert, delete, replace: of a span; add_file, delete_file
    path VARCHAR NOT NULL,             -- which base file, or the file that is added
    start_line INTEGER NOT NULL,       -- first line touched, from 1
    end_line INTEGER NOT NULL,         -- last line touched
    search VARCHAR NOT NULL,           -- base text of the span; empty for an insertion
    replace VARCHAR NOT NULL,          -- what stands there instead
    start_char BIGINT NOT NULL,        -- span [start_char, end_char) in characters of the base file
    end_char BIGINT NOT NULL,          -- end of the span
    position INTEGER NOT NULL          -- order within the gene, from 0
);

CREATE TABLE gene_requires (           -- genes that only work together with others
    gene_id VARCHAR NOT NULL,          -- this gene
    requires_id VARCHAR NOT NULL,      -- needs this one, or a later allele of it
    position INTEGER NOT NULL          -- order within the gene, from 0
);

CREATE TABLE conflicts (               -- pairs of genes that cannot be in one patch set
    gene_a VARCHAR NOT NULL,           -- the smaller id
    gene_b VARCHAR NOT NULL,           -- the larger id
    PRIMARY KEY (gene_a, gene_b)
);

CREATE TABLE genotypes (               -- patch sets; the one without genes is the baseline
    genotype_id VARCHAR PRIMARY KEY,   -- hash of the gene ids
    n_genes INTEGER NOT NULL,          -- how many genes
    tree_id VARCHAR                    -- hash of the patched tree, where it was composed
);

CREATE TABLE genotype_genes (          -- which genes a patch set carries
    genotype_id VARCHAR NOT NULL,      -- this patch set
    gene_id VARCHAR NOT NULL           -- carries this gene
);

CREATE TABLE individuals (             -- one birth each
    individual_id VARCHAR PRIMARY KEY, -- name of the individual
    run_id VARCHAR NOT NULL,           -- its run
    genotype_id VARCHAR NOT NULL,      -- its patch set; several individuals may share one
    generation INTEGER NOT NULL,       -- which generation
    birth INTEGER NOT NULL,            -- birth number, the order in which the population is told
    operator VARCHAR NOT NULL,         -- baseline, knob, recombine, drop, mutate, cross, refine, inject
    island INTEGER NOT NULL,           -- subpopulation
    created_at TIMESTAMP NOT NULL      -- when it was recorded
);

CREATE TABLE parents (                 -- who descends from whom
    individual_id VARCHAR NOT NULL,    -- the child
    parent_id VARCHAR NOT NULL,        -- one of its parents
    position INTEGER NOT NULL          -- order of the parents, from 0
);

CREATE TABLE evaluations (             -- one patch set, one rung, one seed, one outcome
    evaluation_id VARCHAR PRIMARY KEY, -- name of the evaluation, and of its folder under evaluations/
    genotype_id VARCHAR NOT NULL,      -- what was scored
    run_id VARCHAR NOT NULL,           -- its run
    rung VARCHAR NOT NULL,             -- which fidelity
    depth INTEGER,                     -- depth of the model, where the target has one
    seed BIGINT NOT NULL,              -- common random numbers: the same seeds for every genotype
    split VARCHAR NOT NULL,            -- val, or lockbox for the final confirmation
    replicate INTEGER NOT NULL,        -- repeats of the same seed count up from 0
    status VARCHAR NOT NULL,           -- ok, patch_failed, crashed, timed_out, out_of_memory, diverged, ...
    score DOUBLE,                      -- in the unit of runs.metric; NULL unless status is ok
    train_seconds DOUBLE,              -- seconds of training, counted outside the candidate
    wall_seconds DOUBLE NOT NULL,      -- seconds paid; 0 for a cache hit
    tokens BIGINT,                     -- training tokens handed out
    flops DOUBLE,                      -- of the training run: the judge's count if it makes one, else tokens x the candidate's
                                       -- own word for FLOPs per token (first line of events.jsonl)
    peak_memory_bytes BIGINT,          -- largest memory in use
    n_params BIGINT,                   -- parameters, counted in the checkpoint
    device VARCHAR NOT NULL,           -- cpu, or the model of the GPU
    kernel VARCHAR,                    -- attention kernel (fa3, flash, flex, sdpa), by the candidate's own word
    sandbox VARCHAR NOT NULL,          -- what the candidate was locked into
    integrity VARCHAR NOT NULL,        -- judged, or self_reported
    source_evaluation_id VARCHAR,      -- of a cache hit: the evaluation that was paid for
    started_unix DOUBLE NOT NULL,      -- when it began, unix seconds, exact
    log_tail VARCHAR NOT NULL,         -- last lines of its log
    started_at TIMESTAMP GENERATED ALWAYS AS (make_timestamp((started_unix * 1e6)::BIGINT)) VIRTUAL, -- when it began
    CHECK ((score IS NOT NULL) = (status = 'ok')),
    CHECK (isfinite(score))
);

CREATE TABLE curves (                  -- training curves, at most 200 points an evaluation
    evaluation_id VARCHAR NOT NULL,    -- whose curve
    step BIGINT NOT NULL,              -- optimiser step
    tokens BIGINT,                     -- tokens seen so far
    seconds DOUBLE,                    -- seconds since training began
    train_loss DOUBLE NOT NULL         -- loss in the unit the trainer reports
);

CREATE TABLE llm_calls (               -- every call to a language model, failed ones included
    call_id VARCHAR PRIMARY KEY,       -- name of the call
    run_id VARCHAR NOT NULL,           -- its run
    individual_id VARCHAR,             -- the birth it was made for
    purpose VARCHAR NOT NULL,          -- mutate, cross, refine, ...
    model VARCHAR NOT NULL,            -- which model
    input_tokens BIGINT NOT NULL,      -- tokens read at full price
    output_tokens BIGINT NOT NULL,     -- tokens written
    cache_read_tokens BIGINT NOT NULL, -- prompt tokens read from the provider's cache
    cache_write_tokens BIGINT NOT NULL, -- prompt tokens written to it
    usd DOUBLE NOT NULL,               -- price of the call
    seconds DOUBLE NOT NULL,           -- how long it took
    status VARCHAR NOT NULL,           -- ok, or how it failed
    error VARCHAR                      -- what the provider said
);

CREATE TABLE gene_posteriors (         -- what all evaluations together say about a gene, as of the last refresh
    run_id VARCHAR NOT NULL,           -- the run
    rung VARCHAR NOT NULL,             -- on which rung
    gene_id VARCHAR NOT NULL,          -- which gene
    mean DOUBLE NOT NULL,              -- posterior mean of its gain, shrunk by its uncertainty
    sd DOUBLE NOT NULL,                -- posterior sd of its gain
    p_positive DOUBLE NOT NULL,        -- probability that its gain is above zero
    n INTEGER NOT NULL,                -- evaluations that carried it
    state VARCHAR NOT NULL,            -- where the engine keeps it: under test, core, retired, wrecked
    updated_at TIMESTAMP NOT NULL,     -- when it was computed
    PRIMARY KEY (run_id, rung, gene_id)
);

CREATE TABLE effects (                 -- what designed experiments found
    analysis_id VARCHAR NOT NULL,      -- one analysis writes many rows
    run_id VARCHAR NOT NULL,           -- the run
    kind VARCHAR NOT NULL CHECK (kind IN ('alone', 'main', 'in_stack', 'shapley', 'pair', 'stack', 'transfer',
        'observational')),             -- which estimand; they are never mixed
    gene_a VARCHAR,                    -- the gene; NULL for a whole stack
    gene_b VARCHAR,                    -- the second gene of a pair
    estimate DOUBLE,                   -- a difference in the unit of the score; its sign is the score's, not a gain's
    se DOUBLE,                         -- standard error of the estimate
    ci_low DOUBLE,                     -- interval, lower end
    ci_high DOUBLE,                    -- interval, upper end
    n INTEGER,                         -- seeds or pairs behind it
    p_value DOUBLE,                    -- two-sided
    q_value DOUBLE,                    -- p adjusted for the number of genes tested
    verdict VARCHAR,                   -- stacks, barnacle, harmful, additive, synergy, redundant, ..., undecided
    depth INTEGER,                     -- depth of the model
    rung VARCHAR,                      -- on which rung
    design VARCHAR,                    -- leave-one-out, one-in, factorial, screening
    analysis_at TIMESTAMP NOT NULL     -- when it was computed
);

-- One row per genotype and seed on the validation split: replicates of a seed are averaged, failures are not in it.
CREATE VIEW seed_scores AS
SELECT run_id, rung, depth, genotype_id, n_genes, seed, avg(score) AS score, count(*) AS replicates
FROM evaluations JOIN genotypes USING (genotype_id)
WHERE status = 'ok' AND split = 'val'
GROUP BY run_id, rung, depth, genotype_id, n_genes, seed;

-- One row per rung and genotype: n seeds, mean and se of the score; gain over the baseline at the seeds both have (gain_n),
-- paired, with its se (NULL below two seeds).
CREATE VIEW leaderboard AS
WITH baseline AS (SELECT run_id, rung, depth, seed, score FROM seed_scores WHERE n_genes = 0),
signs AS (SELECT run_id, CASE direction WHEN 'maximize' THEN 1 ELSE -1 END AS sign FROM runs)
SELECT s.run_id, s.rung, s.depth, s.genotype_id, s.n_genes,
    count(*) AS n, avg(s.score) AS mean, stddev_samp(s.score) / sqrt(count(*)) AS se,
    avg(sign * (s.score - b.score)) AS gain,
    stddev_samp(s.score - b.score) / sqrt(count(b.score)) AS gain_se, count(b.score) AS gain_n
FROM seed_scores AS s JOIN signs USING (run_id)
LEFT JOIN baseline AS b
    ON b.run_id = s.run_id AND b.rung = s.rung AND b.depth IS NOT DISTINCT FROM s.depth AND b.seed = s.seed
GROUP BY s.run_id, s.rung, s.depth, s.genotype_id, s.n_genes;

-- Two numbers per rung. baseline: sd of the baseline over n seeds. null: sd of a paired difference when nothing but rounding
-- has changed, sqrt(2) times the sd within seeds of the base and its null genes, from n pairs; null genes that changed no
-- score at all are left out. What came from the cache is not in it.
CREATE VIEW noise_floor AS
WITH paid AS (
    SELECT run_id, rung, depth, genotype_id, n_genes, seed, avg(score) AS score
    FROM evaluations JOIN genotypes USING (genotype_id)
    WHERE status = 'ok' AND split = 'val' AND source_evaluation_id IS NULL
    GROUP BY run_id, rung, depth, genotype_id, n_genes, seed
),
nulls AS (
    SELECT genotype_id FROM genotype_genes JOIN genes USING (gene_id) GROUP BY genotype_id HAVING bool_and(is_null)
),
pairs AS (
    SELECT a.*, b.score AS base FROM paid AS a SEMI JOIN nulls ON nulls.genotype_id = a.genotype_id
    JOIN paid AS b ON b.n_genes = 0 AND b.run_id = a.run_id AND b.rung = a.rung
        AND b.depth IS NOT DISTINCT FROM a.depth AND b.seed = a.seed
    QUALIFY bool_or(a.score <> b.score) OVER (PARTITION BY a.run_id, a.rung, a.depth, a.genotype_id)
),
arms AS (
    SELECT run_id, rung, depth, seed, score, 1 AS pair FROM pairs
    UNION ALL
    SELECT DISTINCT run_id, rung, depth, seed, base, 0 FROM pairs
),
groups AS (
    SELECT run_id, rung, depth, seed, sum(pair) AS n, var_pop(score) * count(*) AS squares, count(*) - 1 AS df
    FROM arms GROUP BY run_id, rung, depth, seed
)
SELECT run_id, rung, depth, 'baseline' AS kind, count(*) AS n, stddev_samp(score) AS sd
FROM paid WHERE n_genes = 0 GROUP BY run_id, rung, depth
UNION ALL
SELECT run_id, rung, depth, 'null', sum(n)::BIGINT, sqrt(2 * sum(squares) / sum(df)) FROM groups GROUP BY run_id, rung, depth;

-- One row per individual and ancestor, with the shortest distance (a parent is at 1); ancestors beyond 32 steps are cut off.
CREATE VIEW lineage AS
WITH RECURSIVE walk (individual_id, ancestor_id, distance) AS (
    SELECT individual_id, parent_id, 1 FROM parents
    UNION
    SELECT walk.individual_id, parents.parent_id, walk.distance + 1
    FROM walk JOIN parents ON parents.individual_id = walk.ancestor_id
    WHERE walk.distance < 32
)
SELECT individual_id, ancestor_id, min(distance) AS distance FROM walk GROUP BY individual_id, ancestor_id;

-- The design matrix in long form: every scored genotype against every gene that some scored genotype carries, 1 if it carries
-- it and 0 if not, with the genotype's mean score over n seeds.
CREATE VIEW design AS
WITH scored AS (SELECT run_id, rung, depth, genotype_id, n, mean FROM leaderboard),
carried AS (
    SELECT DISTINCT run_id, rung, depth, gene_id FROM scored JOIN genotype_genes USING (genotype_id)
)
SELECT s.run_id, s.rung, s.depth, s.genotype_id, c.gene_id, (gg.gene_id IS NOT NULL)::INTEGER AS present, s.mean, s.n
FROM scored AS s
JOIN carried AS c ON c.run_id = s.run_id AND c.rung = s.rung AND c.depth IS NOT DISTINCT FROM s.depth
LEFT JOIN genotype_genes AS gg ON gg.genotype_id = s.genotype_id AND gg.gene_id = c.gene_id;

-- One row per rung and gene: its posterior gain (positive is better) and where the engine keeps it.
CREATE VIEW gene_stats AS
SELECT run_id, rung, gene_id, title, mean, sd, p_positive, n, state, updated_at
FROM gene_posteriors JOIN genes USING (gene_id);

-- What was spent: one row per status of the evaluations, one per status of the LLM calls. Cache hits cost nothing.
CREATE VIEW budget AS
SELECT run_id, 'evaluations' AS what, status, count(*) AS n, count(source_evaluation_id) AS cached,
    coalesce(sum(train_seconds) FILTER (source_evaluation_id IS NULL), 0) AS train_seconds, sum(wall_seconds) AS wall_seconds,
    coalesce(sum(tokens) FILTER (source_evaluation_id IS NULL), 0)::BIGINT AS tokens, 0 AS usd
FROM evaluations GROUP BY run_id, status
UNION ALL
SELECT run_id, 'llm_calls', status, count(*), 0, 0, sum(seconds),
    sum(input_tokens + output_tokens + cache_read_tokens + cache_write_tokens)::BIGINT, sum(usd)
FROM llm_calls GROUP BY run_id, status;
