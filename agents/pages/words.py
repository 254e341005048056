"""What reports of comparisons say, in English and in Japanese.

One idea: a page asks for a phrase by its key and gives it the numbers, so that no sentence is made
anywhere else.
"""

from __future__ import annotations

__all__ = ["LANGUAGES", "WORDS", "phrase"]

LANGUAGES = ("en", "ja")


def phrase(lang: str, key: str, **values: object) -> str:
    """A phrase in a language, with its numbers.

    >>> phrase("ja", "seeds", count=5)
    'シード5個'
    """
    return WORDS[key][LANGUAGES.index(lang)].format(**values)


WORDS: dict[str, tuple[str, str]] = {
    "title": ("Comparison: {name}", "比較: {name}"),
    "claim": ("Claim", "主張"),
    "seeds": ("{count} seeds", "シード{count}個"),
    "supported": (
        "Supported: {ours} is better than {theirs} by {measure}{task}: {difference} over {count} seeds (p = {p}).",
        "支持: {measure}{task}では{ours}が{theirs}より良い。差は{difference}(シード{count}個、p = {p})。",
    ),
    "contradicted": (
        "Contradicted: {ours} is worse than {theirs} by {measure}{task}: {difference} over {count} seeds (p = {p}).",
        "否定: {measure}{task}では{ours}が{theirs}より悪い。差は{difference}(シード{count}個、p = {p})。",
    ),
    "equivalent": (
        "About equal: {ours} and {theirs} differ in {measure}{task} by {difference} over {count} seeds, surely less "
        "than the {margin} that matters.",
        "ほぼ同等: {measure}{task}での{ours}と{theirs}の差は{difference}(シード{count}個)で、"
        "意味のある差{margin}より確かに小さい。",
    ),
    "undecided": (
        "Undecided: {ours} against {theirs} in {measure}{task}: {difference} over {count} seeds (p = {p}). To see a "
        "difference of {margin}, about {needed} seeds are needed.",
        "未決: {measure}{task}での{ours}と{theirs}の差は{difference}(シード{count}個、p = {p})。"
        "差{margin}を見分けるにはシードが約{needed}個必要。",
    ),
    "undecided bare": (
        "Undecided: {ours} against {theirs} in {measure}{task}: {difference} over {count} seeds (p = {p}).",
        "未決: {measure}{task}での{ours}と{theirs}の差は{difference}(シード{count}個、p = {p})。",
    ),
    "no verdict": (
        "No verdict: {ours} against {theirs} in {measure}{task}: {difference}, over {count} seeds; at least 5 are "
        "needed.",
        "判定なし: {measure}{task}での{ours}と{theirs}の差は{difference}(シード{count}個)。判定には5個以上が必要。",
    ),
    "equal claim": (
        "The claim was that they are about equal.",
        "主張は「ほぼ同等」である。",
    ),
    "nothing": (
        "No verdict: no seed has both {ours} and {theirs} with {measure}{task}.",
        "判定なし: {measure}{task}について{ours}と{theirs}の両方を持つシードがない。",
    ),
    "on": (" on {task}", "({task})"),
    "afterwards": (
        "Nobody wrote a claim down before these runs: what follows describes them, and confirms nothing that was "
        "predicted.",
        "これらの実行の前に主張は書かれていない。以下は記述であり、予測の検証ではない。",
    ),
    "differed": ("What differed", "何が違うか"),
    "arm": ("arm", "群"),
    "settings": ("settings", "設定"),
    "why": ("why", "理由"),
    "tuned to": ("tuned to", "調整結果"),
    "the suite's": ("those of the suite", "共通設定のまま"),
    "matched": ("Matched by {by}{like}; {seeds}.", "{by}で揃えた{like}。{seeds}。"),
    "like": (", as much as {arm}", "({arm}と同量)"),
    "reached": ("What each arm reached{task}", "各群の結果{task}"),
    "mean": (
        "Mean over seeds [95 % interval]; agents averaged within a run, each alone on {on}.",
        "シードの平均[95%区間]。実行内でエージェントを平均し、それぞれ単独で評価({on})。",
    ),
    "differences": ("Differences", "差"),
    "difference": ("difference", "差"),
    "over prompts": ("over seeds and prompts", "シードとプロンプト"),
    "iqm": ("interquartile mean", "四分位平均"),
    "chance": ("probability of improvement", "改善確率"),
    "p": ("p", "p"),
    "adjusted": ("p, Holm", "p (Holm)"),
    "equal p": ("p, equal", "p (同等)"),
    "power": ("power", "検出力"),
    "margin": ("margin", "意味のある差"),
    "positive": (
        "Positive is better for the first arm.",
        "正の値は最初の群に有利。",
    ),
    "curves": ("Curves{task}", "学習曲線{task}"),
    "curves note": (
        "Validation split; mean over seeds and a 95 % band.",
        "検証データ。シードの平均と95%帯。",
    ),
    "iteration": ("iteration", "反復"),
    "frontier": ("Reward against KL{task}", "報酬とKL{task}"),
    "frontier note": (
        "A dot for each run; a line through the means of an arm's points. {dominated}",
        "点は各実行、線は各群の平均を結ぶ。{dominated}",
    ),
    "dominated": (
        "{share} of the points of {theirs} are beaten in both by a point of {ours}.",
        "{theirs}の点の{share}は{ours}のいずれかの点に両方で劣る。",
    ),
    "collapse": ("Collapse", "崩壊"),
    "collapse none": (
        "No run collapsed by the rule of docs/referee.md.",
        "docs/referee.mdの基準で崩壊した実行はない。",
    ),
    "collapse note": ("Runs that collapsed, and when.", "崩壊した実行とその時点。"),
    "runs": ("runs", "実行"),
    "collapsed runs": ("collapsed", "崩壊"),
    "at iterations": ("at iterations", "反復"),
    "alarms": ("alarms of the audit", "監査の警報"),
    "cost": ("Cost", "費用"),
    "cost note": (
        "Mean over seeds, of training; evaluations are not counted.",
        "訓練のみのシード平均。評価は含まない。",
    ),
    "projection": (
        "A run of {arm} with {factor} times the work would take about {hours} processor hours{money}.",
        "{arm}の{factor}倍の仕事は約{hours}プロセッサ時間{money}。",
    ),
    "money": (", which cost {price}", "、費用{price}"),
    "probes": ("What the reward pays without learning", "学習なしで得られる報酬"),
    "probes note": (
        "On validation prompts. Where one of these comes near what agents reach, the reward was learned rather than "
        "the task.",
        "検証プロンプト。これらがエージェントの報酬に近ければ、課題ではなく報酬が学ばれた。",
    ),
    "probe": ("probe", "試行"),
    "reward": ("reward", "報酬"),
    "side by side": ("The same prompts side by side{task}", "同じプロンプトでの比較{task}"),
    "seed": ("seed", "シード"),
    "prompt": ("prompt", "プロンプト"),
    "initial model": ("initial model", "初期モデル"),
    "tried": ("Every configuration that was tried", "試したすべての設定"),
    "tried note": (
        "On seeds and a split of their own (validation); the best mean was taken.",
        "専用のシードと検証データで試し、平均が最良のものを採用。",
    ),
    "task": ("task", "課題"),
    "failed": ("Runs that failed", "失敗した実行"),
    "error": ("error", "エラー"),
    "notes": ("To be known", "注意"),
    "provenance": ("Provenance", "来歴"),
    "again": (
        "Made again by: {command}",
        "再作成: {command}",
    ),
    "suite": ("Suite {name}, SHA-256 {digest}", "スイート {name}、SHA-256 {digest}"),
    "commit": ("commit", "コミット"),
    "versions": ("versions", "版"),
    "platform": ("platform", "環境"),
}
"""Key -> English, Japanese."""
