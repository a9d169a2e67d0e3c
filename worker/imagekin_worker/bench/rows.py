"""The rows, in the order in which they are measured and shown."""

from __future__ import annotations

from imagekin_worker.bench import analyses, compilation, forward, kmeans, large, latency, load, memory, pipeline, search
from imagekin_worker.bench.report import Goal, Row

CPU = (
    Row("forward", "the prepared forward pass over the eager one, float32 NCHW, batch 1", "cpu", Goal(1.7),
        forward.figure),
    Row("pipeline", "a whole embed job, HTTP submit to last commit, over the ideal of its own stages", "cpu",
        Goal(0.92), pipeline.whole),
    Row("overhead", "the share of a job's time in which no worker core works on an image", "cpu",
        Goal(0.05, at_least=False), pipeline.overhead),
    Row("against-forward", "a whole resnet50 job over its forward pass alone", "cpu", Goal(0.88),
        pipeline.against_forward),
    Row("original-class", "a whole resnet50 job over the original class, same pictures and weights", "cpu", Goal(6),
        pipeline.against_class),
    Row("large-photos", "a job over 2000 x 2000 JPEGs, precision fast over exact", "cpu", Goal(2), large.figure),
    Row("exact", "a job with the compiled network over the same with the prepared one, precision exact", "cpu",
        Goal(1.1), compilation.exact),
    Row("fast", "the same, precision fast", "cpu", Goal(1.3), compilation.fast),
    Row("search-job", "a search by picture, submit to result, p50, over its decode, forward and scan", "cpu",
        Goal(2, at_least=False), latency.search_job),
    Row("idle", "submit to the first claim on an idle worker, over 100 ms", "cpu", Goal(1, at_least=False),
        latency.idle),
    Row("search", "exact top 10, one query, faiss IndexFlatIP's time over ours", "cpu", Goal(1), search.one),
    Row("search-64", "exact top 10, 64 queries at once, faiss IndexFlatIP's time over ours", "cpu", Goal(1),
        search.many),
    Row("kmeans", "an iteration over the bare matrix product of its shape", "cpu", Goal(1.5, at_least=False),
        kmeans.against_product),
    Row("kmeans-pytorch", "kmeans-pytorch's time over ours, same rows and k", "cpu", Goal(10),
        kmeans.against_package),
    Row("duplicates", "all pairs above the line of near-duplicates, over the bare products of all rows", "cpu",
        Goal(1.3, at_least=False), analyses.duplicates),
    Row("outliers", "a search for outliers over the bare products of all rows", "cpu",
        Goal(1.3, at_least=False), analyses.outliers),
    Row("outliers-duplicates", "outliers and then near-duplicates of the same rows, over the bare products of one pass",
        "cpu", Goal(1.5, at_least=False), analyses.together),
    Row("diverse", "a diverse selection over the bare products of the chosen with all rows", "cpu",
        Goal(2, at_least=False), analyses.diverse),
    Row("map", "a map over 60 s", "cpu", Goal(1, at_least=False), analyses.layout),
    Row("labels", "the slower of classify and adapt over 30 s", "cpu", Goal(1, at_least=False), analyses.labels),
    Row("load", "reading a raw file's time over a load from SQL into the resident matrix", "cpu", Goal(0.5),
        load.figure),
    Row("memory", "the peak of a large job over that of a small one", "cpu", Goal(1.1, at_least=False),
        memory.figure),
)  # fmt: skip

GPU = (
    Row("forward-gpu", "the prepared forward pass over eager bfloat16 channels_last", "cuda", Goal(1.5),
        forward.figure),
    Row("pipeline-gpu", "a whole embed job over the slower of its stages", "cuda", Goal(0.85), pipeline.whole),
    Row("against-forward-gpu", "a whole resnet50 job over its forward pass alone", "cuda", Goal(0.5),
        pipeline.against_forward),
    Row("original-class-gpu", "a whole resnet50 job over the original class", "cuda", Goal(50),
        pipeline.against_class),
    Row("kmeans-gpu", "an iteration over the bare matrix product of its shape", "cuda", Goal(1.5, at_least=False),
        kmeans.against_product),
    Row("kmeans-pytorch-gpu", "kmeans-pytorch's time over ours, same rows and k", "cuda", Goal(20),
        kmeans.against_package),
)  # fmt: skip

ROWS = (*CPU, *GPU)
