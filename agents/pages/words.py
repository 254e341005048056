"""What reports of comparisons say, in English and in Japanese.

One idea: a page asks for a phrase by its key and gives it the numbers, so that no sentence is made
anywhere else. Measures have their English names in `coevo_agents.referee.measures` and notes theirs
where they are made; here is what they are called in Japanese.
"""

from __future__ import annotations

from ..referee.measures import find_measure
from ..referee.notes import Note

__all__ = ["LANGUAGES", "WORDS", "measure_title", "measure_unit", "note_text", "phrase"]

LANGUAGES = ("en", "ja")


def phrase(lang: str, key: str, **values: object) -> str:
    """A phrase in a language, with its numbers.

    >>> phrase("ja", "hours", hours=5)
    'プロセッサ5時間'
    """
    return WORDS[key][LANGUAGES.index(lang)].format(**values)


def measure_title(lang: str, name: str) -> str:
    """What a measure is called."""
    if lang == "en":
        return find_measure(name).title
    if name.startswith("reward/"):
        return f"{name[7:]}（報酬の項）"
    if name.startswith("reward_at_kl/"):
        return f"KLが{name[13:]} natでの報酬"
    return MEASURES.get(name) or find_measure(name).title


def measure_unit(lang: str, name: str) -> str:
    """The unit of a measure, or ""."""
    unit = find_measure(name).unit
    return unit if lang == "en" else UNITS.get(unit, unit)


def note_text(lang: str, note: str) -> str:
    """A note; one that nobody has translated stays as it is."""
    if lang == "en" or not isinstance(note, Note) or note.key not in NOTES:
        return note
    return NOTES[note.key].format(**note.values)


WORDS: dict[str, tuple[str, str]] = {
    "title": ("Comparison: {name}", "比較：{name}"),
    "claim": ("Claim and verdict", "主張と判定"),
    "details": ("To check", "検証のために"),
    "comma": (", ", "、"),
    "with unit": ("{title} ({unit})", "{title}（{unit}）"),
    # verdicts
    "verdict supported": ("Supported: ", "支持される："),
    "verdict contradicted": ("Contradicted: ", "主張に反する："),
    "verdict equivalent": ("About equal: ", "ほぼ同等："),
    "verdict undecided": ("Undecided: ", "判断できない："),
    "verdict none": ("No verdict: ", "判定なし："),
    "seen better": (
        "{ours} is better than {theirs} by {measure}{task}, {difference} over {count} seeds (p = {p}).",
        "{measure}{task}では{ours}が{theirs}より優れている。差は{difference}（シード{count}個、p = {p}）。",
    ),
    "seen worse": (
        "{ours} is worse than {theirs} by {measure}{task}, {difference} over {count} seeds (p = {p}).",
        "{measure}{task}では{ours}が{theirs}より劣る。差は{difference}（シード{count}個、p = {p}）。",
    ),
    "seen equal": (
        "{ours} and {theirs} differ in {measure}{task} by {difference} over {count} seeds, surely less than the "
        "{margin} that matters.",
        "{measure}{task}における{ours}と{theirs}の差は{difference}（シード{count}個）であり、"
        "意味をもつ最小の差{margin}より確実に小さい。",
    ),
    "seen same": (
        "{ours} and {theirs} have the same {measure}{task} with each of {count} seeds.",
        "{measure}{task}は、シード{count}個のいずれでも{ours}と{theirs}で等しい。",
    ),
    "seen undecided": (
        "{ours} against {theirs} in {measure}{task}, {difference} over {count} seeds (p = {p}).",
        "{measure}{task}における{ours}と{theirs}の差は{difference}（シード{count}個、p = {p}）。",
    ),
    "seen few": (
        "{ours} against {theirs} in {measure}{task}, {difference}; seeds: {count}, at least 5 are needed.",
        "{measure}{task}における{ours}と{theirs}の差は{difference}（シード{count}個）。判定には5個以上が必要である。",
    ),
    "lower": (" Lower is better: {ours} has the lower value.", "低いほど良い値であり、{ours}のほうが低い。"),
    "higher": (" Lower is better: {ours} has the higher value.", "低いほど良い値であり、{ours}のほうが高い。"),
    "needed": (
        " To see a difference of {margin}, about {needed} seeds are needed.",
        "差{margin}を見分けるには、約{needed}個のシードが必要である。",
    ),
    "enough": (
        " As many seeds would probably show a difference of {margin}; one that is smaller they would not.",
        "この個数のシードで差{margin}はおそらく見分けられるが、それより小さい差は見分けられない。",
    ),
    "equal claim": (" The claim was that they are about equal.", "主張は「両者はほぼ同等である」であった。"),
    "no pairs": (
        "no seed has both {ours} and {theirs} with {measure}{task}.",
        "{measure}{task}について、{ours}と{theirs}の両方がそろうシードがない。",
    ),
    "on": (" on {task}", "（{task}）"),
    "afterwards": (
        "Nobody wrote a claim down before these runs: what follows describes them, and confirms nothing that was "
        "predicted.",
        "これらの実行の前に主張は書き記されていない。以下は結果の記述であり、予測を確かめたものではない。",
    ),
    "some failed": (
        "{count} of {total} runs failed; they are in no number below, and are listed below the differences.",
        "{total}件中{count}件の実行が失敗した。以下の数値には含まれず、「差」の下に示す。",
    ),
    "notes": ("To be known", "注意"),
    # arms
    "differed": ("What differed between the arms", "各群の違い"),
    "arm": ("arm", "群"),
    "settings": ("settings", "設定"),
    "why": ("why it may differ", "違いを許す理由"),
    "tuned to": ("chosen by tuning", "調整で選ばれた設定"),
    "spent": ("spent", "実際の消費量"),
    "the suite's": ("those of the suite", "共通設定のまま"),
    "matched": ("Matched by {by}{like}; {count} seeds.", "{by}で条件をそろえた{like}。シードは{count}個。"),
    "match iterations": ("iterations, as many as each arm says", "反復数（各群の指定どおり）"),
    "match episodes": ("episodes", "エピソード数"),
    "match generated": ("generated tokens", "生成トークン数"),
    "match tokens": ("all tokens read and written", "読み書きした全トークン数"),
    "match flops": ("model FLOPs", "モデルの演算量（FLOPs）"),
    "match cpu_seconds": ("processor seconds", "プロセッサ秒数"),
    "like": (", as much as {arm} with the same seed", "（同じシードの{arm}と同量）"),
    "amount": (", {amount} for each run", "（1実行あたり{amount}）"),
    "common": ("All arms: preset {preset}, {settings}.", "全群共通：プリセット {preset}、{settings}。"),
    "in fact": ("Settings that differ in the runs themselves", "実行記録で実際に異なる設定"),
    "no difference": ("No setting differs between the arms.", "群の間で異なる設定はない。"),
    "reached": ("What each arm reached{task}", "各群の到達点{task}"),
    "mean": (
        "Mean over seeds, its 95 % interval, standard deviation over seeds (sd), number of seeds (n). Agents are "
        "averaged within a run, each alone on: {on}.",
        "シードについての平均、その95%区間、標準偏差（sd）、シード数（n）。実行ごとにエージェントを平均した。"
        "評価は各エージェント単独で、{on}による。",
    ),
    "split train": ("train split", "訓練データ"),
    "split validation": ("validation split", "検証データ"),
    "split test": ("test split", "テストデータ"),
    "of prompts": ("{value} prompts", "プロンプト{value}個"),
    "of draws": ("{value} answers to each", "各{value}回答"),
    "unknown": ("unknown", "不明"),
    # differences
    "differences": ("Differences", "差"),
    "difference": ("difference, over seeds", "差（シード）"),
    "over prompts": ("over seeds and prompts", "差（シードとプロンプト）"),
    "iqm": ("interquartile mean", "四分位平均の差"),
    "chance": ("probability of improvement", "改善確率"),
    "p": ("p", "p"),
    "adjusted": ("p, Holm", "p（Holm補正）"),
    "equal p": ("p, about equal", "p（同等性）"),
    "power": ("power at the margin", "検出力"),
    "seeds needed": ("seeds needed", "必要なシード数"),
    "margin": ("margin", "意味をもつ最小の差"),
    "positive": (
        "Paired by seed; positive is better for the first arm, also where lower values are better. Intervals are of "
        "95 %. Power and seeds needed are for the margin, with so many claims.",
        "シードごとの対応のある差。低いほど良い値でも、正の差は最初の群に有利。区間は95%。"
        "検出力と必要なシード数は、主張の数を考慮し、意味をもつ最小の差についてのもの。",
    ),
    # failures
    "failed": ("Runs that failed", "失敗した実行"),
    "failed note": ("They are in no number of this report.", "本報告のどの数値にも含まれていない。"),
    "task": ("task", "課題"),
    "seed": ("seed", "シード"),
    "error": ("error", "エラー"),
    # curves
    "curves": ("Curves{task}", "学習曲線{task}"),
    "curves note": (
        "On the validation split while training: mean over seeds, and a band of 95 %.",
        "訓練中の検証データでの値。シードについての平均と95%の帯。",
    ),
    "curves cut": (
        " Runs of an arm were not evaluated at the same iterations; its curve is of those that all of them have.",
        "同じ群でも評価した反復が実行ごとに異なるため、曲線は全実行に共通する反復のみを示す。",
    ),
    "iteration": ("iteration", "反復"),
    "at iteration": ("iteration {x}", "反復{x}"),
    # frontier
    "frontier": ("Reward against KL{task}", "報酬とKL{task}"),
    "frontier note": (
        "A dot for each run: up is more reward, left is closer to the initial model.",
        "点は1実行。上ほど報酬が高く、左ほど初期モデルに近い。",
    ),
    "hull note": (
        " Lines: what mixtures of the initial model and an arm's mean points can have.",
        "線は、初期モデルと各群の平均点の混合で到達できる範囲。",
    ),
    "dominated": (
        "{share} of the mean points of {theirs} are beaten by one of {ours}: no less reward at no more KL.",
        "{theirs}の平均点の{share}は、{ours}のいずれかの点に報酬とKLの両方で及ばない。",
    ),
    "means": ("Mean points", "平均点"),
    # collapse
    "collapse": ("Collapse", "崩壊"),
    "collapse none": (
        "None of {count} runs collapsed by the rule of docs/referee.md.",
        "docs/referee.mdの基準で崩壊した実行は、{count}件中0件。",
    ),
    "collapse note": (
        "By the rule of docs/referee.md, fixed before the runs. The timeline is from the first iteration to the last "
        "of any run; a digit is how many runs collapsed there.",
        "実行前に定めたdocs/referee.mdの基準による。時間軸は最初の反復から全実行の最後の反復まで、"
        "数字はその時点で崩壊した実行の数。",
    ),
    "collapsed runs": ("collapsed runs", "崩壊した実行"),
    "which": ("which", "内訳"),
    "seed at": ("seed {seed} at {at}", "シード{seed}：反復{at}"),
    "alarms": ("alarms of the audit", "監査の警報"),
    # cost
    "cost": ("Cost", "費用"),
    "cost note": (
        "Mean over seeds, of training; evaluations are not counted.",
        "訓練のみの費用の、シードについての平均。評価は含まない。",
    ),
    "no flops": (
        " FLOPs were not counted (count_flops = true counts them).",
        "FLOPsは数えていない（count_flops = true で数える）。",
    ),
    "all spent": (
        "All {count} runs of this report that ended, tuning included: {spent}.",
        "調整を含め、終了した全{count}件の実行：{spent}。",
    ),
    "projection": (
        "One run, and runs of ten and a hundred times the work, if time grows with it",
        "1実行、およびその10倍・100倍の規模（所要時間が規模に比例する場合）",
    ),
    "as large": ("× {factor}", "{factor}倍"),
    "hours": ("{hours} processor hours", "プロセッサ{hours}時間"),
    "seconds": ("{seconds} processor seconds", "プロセッサ{seconds}秒"),
    "money": ("costs {price}", "費用{price}"),
    # probes
    "probes": ("What the reward pays without learning", "学習なしで得られる報酬"),
    "probes note": (
        "Probes are paid on validation prompts, arms on those they were judged by. Where a probe comes near what "
        "arms reached, the reward may have been learned rather than the task.",
        "探りの報酬は検証プロンプト、各群の報酬は判定用のプロンプトによる。"
        "探りが各群の到達点に近ければ、課題ではなく報酬の抜け穴が学ばれた可能性がある。",
    ),
    "cheap": (
        "{name}: {paid} without any learning; the best arm reached {best}.",
        "{name}：学習なしで{paid}。最良の群の到達点は{best}。",
    ),
    "probe": ("probe: {name}", "探り：{name}"),
    "reached by": ("reached by {arm}", "{arm}の到達点"),
    "reward": ("reward", "報酬"),
    # answers
    "answers": ("The same prompts side by side{task}", "同じプロンプトへの回答{task}"),
    "answers note": (
        "Seed {seed}, the first agent of each run; the reward in brackets.",
        "シード{seed}、各実行の最初のエージェント。括弧内は報酬。",
    ),
    "answers lack": (" This seed has no answers of: {arms}.", "このシードの回答がない群：{arms}。"),
    "prompt": ("prompt", "プロンプト"),
    "answer": ("answer", "回答"),
    "initial model": ("initial model", "初期モデル"),
    # tuning
    "tried": ("Every configuration that was tried", "試したすべての設定"),
    "tried note": (
        "Mean over tuning seeds, on the validation split; {way}, and was taken before the seeds that are judged ran.",
        "調整専用のシードと検証データでの平均。{way}、判定用のシードの実行前に選んだ。",
    ),
    "highest": ("the highest was best", "最も高いものを"),
    "lowest": ("the lowest was best", "最も低いものを"),
    "taken": ("taken", "採用"),
    "trial failed": ("failed: {error}", "失敗：{error}"),
    # provenance
    "provenance": ("Provenance", "来歴"),
    "suite": ("Suite {name}, SHA-256 {digest}", "スイート {name}、SHA-256 {digest}"),
    "again": (
        "Runs and report are made again by: {command}",
        "実行と報告の再作成：{command}",
    ),
    "from rows": (
        "The report alone is made again from kept rows by: coevo compare rows.jsonl",
        "保存した行から報告だけを再作成：coevo compare rows.jsonl",
    ),
    "git_commit": ("commit of the package", "パッケージのコミット"),
    "versions": ("versions", "バージョン"),
    "platform": ("platform", "実行環境"),
    "threads": ("threads", "スレッド数"),
    "digests task": ("digests of the task", "課題のダイジェスト"),
    "digests model": ("digests of the model", "モデルのダイジェスト"),
    "seeds of": ("seeds of {arm}", "{arm}のシード"),
}
"""Key -> English, Japanese."""

MEASURES: dict[str, str] = {
    "J": "J = 報酬 − β·KL",
    "reward": "未学習プロンプトでの報酬",
    "kl": "参照モデルとのKL",
    "gain": "初期モデルからの報酬の増加",
    "area": "訓練中の平均報酬",
    "kl_per_token": "トークンあたりのKL",
    "perplexity": "参照モデルによるパープレキシティ",
    "entropy": "エントロピー",
    "entropy_slope": "エントロピーの傾き",
    "distinct_1": "異なるトークンの割合",
    "distinct_2": "異なるバイグラムの割合",
    "unique": "異なる回答の割合",
    "repeat": "回答内の反復",
    "eos": "自ら終わる回答の割合",
    "length": "長さ",
    "length_drift": "長さの変化",
    "drawdown": "報酬の最大下落",
    "collapsed": "崩壊",
    "collapse_at": "崩壊までの時間",
    "alarmed": "崩壊監査の警報",
    "alarm_at": "最初の警報までの時間",
    "exchange_shock": "役割交換時の報酬の下落",
    "pioneer": "第1席での報酬（最後の10反復）",
    "observer": "第2席での報酬（最後の10反復）",
    "gain_masked": "何も読まない場合に対する増加",
    "gain_shuffled": "別のプロンプトの文を読む場合に対する増加",
    "gain_own": "自分の文を読む場合に対する増加",
    "episodes": "エピソード",
    "prompt_tokens": "プロンプトのトークン",
    "generated_tokens": "生成トークン",
    "reference_tokens": "参照モデルが読んだトークン",
    "trained_tokens": "学習で読んだトークン",
    "value_tokens": "価値関数が読んだトークン",
    "tokens": "全トークン",
    "flops": "モデルの演算量",
    "cpu_s": "訓練のプロセッサ時間",
    "wall_s": "訓練の所要時間",
    "hypervolume": "フロンティア下の面積",
    "gain_per_mtoken": "100万トークンあたりの報酬増加",
    "gain_per_cpu_hour": "プロセッサ1時間あたりの報酬増加",
}
UNITS = {
    "reward": "報酬",
    "nats per response": "nat/回答",
    "nats per token": "nat/トークン",
    "nats per token and iteration": "nat/トークン・反復",
    "share": "割合",
    "tokens": "トークン",
    "iterations": "反復",
    "0 or 1": "0か1",
    "count": "個",
    "seconds": "秒",
    "raw value": "生の値",
}
NOTES = {
    "lacking": "{task}の{arm}にはシード{seeds}の実行がない。差は両方がそろうシードのみによる。",
    "few": "{task}のシードは{count}個。{fewest}個未満では差のみを示し、判定はしない。",
    "commits": "{task}の実行は、パッケージの異なるコミットで行われた：{commits}。",
    "versions": "{task}の実行は、{library}の異なるバージョンで行われた：{versions}。",
    "platforms": "{task}の実行は異なる環境で行われたため、所要時間は比較できない。",
    "changed": "最初の実行の後にスイートが変更された。内容は{count}通り（{digests}）。当初の主張：{claim} {claims}",
    "out of reach": "{claims}件の主張のうち{count}件では、差がどれほど大きくても示すことができない。"
    "シード{seeds}個では、全主張についてのHolm補正後のpが{least}を下回らないためである。少なくとも{needed}個のシードが必要である。",
    "began under another": "実行は別のスイート（{digest}）のもとで始まった。その主張：{claim}",
}
"""Key of a note -> Japanese."""
